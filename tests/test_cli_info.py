"""`slim info`, `slim eval`, `slim doctor`: what they say, to people and to programs."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from slim.cli import main
from slim.cli.doctor import cache_state
from slim.cli.info import describe
from slim.events import Note, Progress
from slim.wording import stage_line

Captured = pytest.CaptureFixture[str]


def test_info_describes_a_model(tiny_model: Path, capsys: Captured) -> None:
    assert main(["info", str(tiny_model)]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    rows = dict(line.split(maxsplit=1) for line in out.splitlines())
    assert rows["parameters"] == "15,584" and rows["context"] == "64 tokens"
    assert rows["sizes"] == "1 layer, dim 32, 2 heads, hidden 32, tied output head"
    assert "run 1" in out and "command pretrain, steps 1,234, loss 2.5" in out
    assert "tiny.bin, 70 kB" in rows["file"]
    assert "not calibrated" in rows["confidence"]


def test_info_as_json(tiny_model: Path, capsys: Captured) -> None:
    assert main(["info", str(tiny_model), "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record == describe(tiny_model)
    assert record["model"]["dim"] == 32 and record["parameters"] == 15_584
    assert record["size_bytes"] == tiny_model.stat().st_size
    assert record["history"] == [{"command": "pretrain", "steps": 1234, "loss": 2.5}]


def test_info_shows_what_a_stranger_wrote_safely(tmp_path: Path, capsys: Captured) -> None:
    from slim.config import ModelConfig
    from slim.model_file import model_metadata, save_model
    from slim.parameters import Parameters
    from slim.tokenizer import Tokenizer

    history: list[dict[str, object]] = [
        {"command": "\x1b]0;owned\x07\u202e", "data": "x" * 100, "n": 1.0, "deep": {"a": [1]}}
    ]
    calibration: dict[str, object] = {"share": "all", "threshold": [1]}
    path = tmp_path / "hostile\x1b[2J.bin"
    tokenizer = Tokenizer([])
    sizes = ModelConfig(
        vocab_size=tokenizer.vocab_size, dim=32, n_layers=1, n_heads=2, hidden_dim=32, max_seq_len=64
    )
    metadata = model_metadata(sizes, tokenizer, history, calibration)
    save_model(path, Parameters(sizes).initialise(0), metadata)
    assert main(["info", str(path)]) == 0
    out, _ = capsys.readouterr()
    assert "\x1b" not in out and "\x07" not in out and "\u202e" not in out
    assert "hostile␛[2J.bin" in out and "␛]0;owned␇" in out
    assert "in a way that this version does not know" in out


def test_eval_agrees_with_the_probabilities_of_the_model(
    tiny_model: Path, tmp_path: Path, capsys: Captured
) -> None:
    text = tmp_path / "text.txt"
    text.write_text("The fox ran. " * 3, encoding="utf-8")
    assert main(["eval", str(tiny_model), str(text), "--json", "--precision", "fp32"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert list(record) == ["nats_per_token", "bits_per_byte", "perplexity", "tokens", "bytes"]
    # A token of this model is a byte, and random weights know nothing: ln 260 nats, nearly.
    assert record["tokens"] == record["bytes"] == 39
    assert record["nats_per_token"] == pytest.approx(math.log(260), abs=0.1)
    assert record["bits_per_byte"] == pytest.approx(record["nats_per_token"] / math.log(2))
    assert record["perplexity"] == pytest.approx(math.exp(record["nats_per_token"]))
    assert main(["eval", str(tiny_model), str(text)]) == 0
    out, _ = capsys.readouterr()
    assert "bits/byte" in out and "(39 tokens, 39 bytes)" in out


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "cannot be opened"),
        (b"", "is empty"),
        (b"  \n ", "holds no text"),
        (np.random.default_rng(0).bytes(3000), "is binary"),
        (b"\x1f\x8b\x08" + bytes(50), "gzip"),
    ],
)
def test_eval_refuses_what_is_no_text(
    tiny_model: Path, tmp_path: Path, capsys: Captured, content: bytes | None, words: str
) -> None:
    text = tmp_path / "text.txt"
    if content is not None:
        text.write_bytes(content)
    assert main(["eval", str(tiny_model), str(text)]) == 3
    out, err = capsys.readouterr()
    assert out == "" and words in err and err.count("\n") == 1


def test_eval_refuses_threads_that_are_no_number(
    tiny_model: Path, tmp_path: Path, capsys: Captured
) -> None:
    assert main(["eval", str(tiny_model), "x", "--threads", "many"]) == 2
    assert "--threads must be a whole number, got 'many'" in capsys.readouterr().err


def test_doctor_finds_this_machine_well(capsys: Captured) -> None:
    assert main(["doctor", "--warmup", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["check"]["right"] is True
    assert record["check"]["last_loss"] < 0.1 < record["check"]["first_loss"]
    assert record["lanes"] in (8, 16) and record["precision"] in ("fp32", "bf16")
    assert 1 <= record["threads"] <= record["cores"] and record["numba"]
    assert record["threading_layer"] in ("omp", "tbb", "workqueue")
    assert record["kernel_cache"] is None or record["kernel_cache"]["kernels"] > 15
    assert main(["doctor"]) == 0
    out, _ = capsys.readouterr()
    assert "as it should" in out and "threading layer" in out


def test_the_state_of_a_kernel_cache(tmp_path: Path) -> None:
    assert cache_state(None) is None
    folder, other = tmp_path / "kernels-1", tmp_path / "kernels-2"
    for place in (folder, other):
        (place / "matmul_1").mkdir(parents=True)
        (place / "matmul_1" / "matmul.1.nbc").write_bytes(bytes(1000))
    assert cache_state(folder) == {
        "folder": str(folder),
        "kernels": 1,
        "bytes": 1000,
        "folders_of_other_versions": 1,
        "bytes_of_other_versions": 1000,
    }


def test_the_table_of_kernels_is_what_a_model_uses() -> None:
    """In a fresh process: what a step, an evaluation and a generation compile is what the table has."""
    code = """
import numpy as np
from slim.config import GenerateConfig, ModelConfig, TrainConfig
from slim.decoding import draw_together, draw_tokens
from slim.kernels.table import kernels_of
from slim.kernels.tile import HAS_BF16
from slim.model import Model
from slim.optim import Muon
from slim.parameters import Parameters
sizes = ModelConfig(
    vocab_size=320, dim=32, n_layers=1, n_heads=4, n_kv_heads=2, hidden_dim=48, max_seq_len=32
)
table = {}
for precision in ("fp32", "bf16") if HAS_BF16 else ("fp32",):
    parameters = Parameters(sizes).initialise(0)
    model = Model(sizes, parameters, precision)
    optimizer = Muon(parameters, TrainConfig(), model.dtype)
    ids, gradients = np.arange(64, dtype=np.int32).reshape(2, 32), Parameters(sizes)
    model.loss_and_gradients(model.workspace(2, 32, train=True), ids, ids, gradients)
    optimizer.step(gradients, 1e-3, optimizer.gradient_norm(gradients))
    model.token_losses(model.workspace(2, 32, train=False), ids, ids)
    prompt, settings = ids[0, :3], GenerateConfig()
    list(draw_tokens(model, model.new_cache(8), prompt, settings, seed=0))
    list(draw_together(model, 8, prompt, settings, seeds=(0, 1)))
    for kernel, signature in kernels_of(precision, training=True):
        table.setdefault(kernel, set()).add(signature)
for kernel, signatures in table.items():
    assert set(kernel.signatures) == signatures, kernel
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)


def test_stages_are_told_once_where_there_is_no_terminal(capsys: Captured) -> None:
    from slim.cli.stage import show_stages

    now = iter(range(100))
    events = [
        Progress("compiling kernels", 0, 9),
        Progress("compiling kernels", 5, 9),
        Note("careful\x1b", "warning"),
        Progress("encoding", 1, 2),
        "result",
        Note("by the way"),
    ]
    assert list(show_stages(events, clock=lambda: float(next(now)))) == ["result"]
    assert capsys.readouterr().err.splitlines() == [
        "slim: compiling kernels 0/9 (first run only)",
        "slim: warning: careful␛",
        "slim: encoding 50 %",
        "slim: by the way",
    ]
    assert list(show_stages(events, quiet=True)) == ["result"]
    assert capsys.readouterr().err == "slim: warning: careful␛\n"


def test_that_the_tokenizer_is_compiled_is_told_where_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from slim import kernels
    from slim.tokenizer import compile_tokenizer

    monkeypatch.setattr(kernels, "CACHE_FOLDER", tmp_path)
    told = [stage_line(event) for event in compile_tokenizer()]
    assert told == [
        f"compiling the tokenizer's kernels {done}/1 (first run only)" for done in (0, 1)
    ]
    (tmp_path / "bpe_train.learn_merges-126.py311.nbi").touch()
    assert list(compile_tokenizer()) == []
