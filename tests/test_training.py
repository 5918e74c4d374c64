"""Training from end to end on models of a few thousand weights: the loop, the run directory, the commands."""

from __future__ import annotations

import hashlib
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from slim import checkpoint
from slim.cli import main
from slim.config import ModelConfig, TrainConfig
from slim.data import TokenData
from slim.events import StepFinished, StepSkipped
from slim.model import Model
from slim.parameters import Parameters
from slim.trainer import Trainer, UnstableError, train

ROOT = Path(__file__).parents[1]
STORIES = ROOT / "demo" / "stories.txt"
SMALL = [
    *("--set", "dim=32", "--set", "n_layers=2", "--set", "n_heads=2", "--set", "hidden_dim=48"),
    *("--vocab-size", "320", "--seq-len", "32", "--batch-tokens", "128", "--set", "sample_tokens=8"),
]
SIZES = ModelConfig(
    vocab_size=97, dim=32, n_layers=2, n_heads=2, n_kv_heads=1, hidden_dim=64, max_seq_len=32
)


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "stories.txt"
    path.write_bytes(STORIES.read_bytes()[:60_000])
    return path


def slim(*arguments: object, check: bool = True) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "slim", *map(str, arguments)],
        capture_output=True, text=True, timeout=300, cwd=ROOT,
    )  # fmt: skip
    assert not check or done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    return done


def weights(path: Path) -> str:
    """A digest of a model file's arrays, whatever its metadata says of times."""
    tensors, _ = checkpoint.read(path)
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode() + tensors[name].tobytes())
    return digest.hexdigest()


def losses(out: Path) -> list[tuple[int, float]]:
    lines = (out.parent / (out.name + ".run") / "metrics.jsonl").read_text().splitlines()
    events = [json.loads(line) for line in lines]
    return [(e["step"], e["loss"]) for e in events if e["event"] in ("step_finished", "eval_finished")]


# The loop


def loop(n: int, config: TrainConfig, precision: str = "fp32"):  # type: ignore[no-untyped-def]
    """A training of `n` steps on a repeating text."""
    model = Model(SIZES, Parameters(SIZES).initialise(config.seed), precision)
    data = TokenData(np.arange(33, dtype=np.int32) * 5 % 97, 33)
    trainer = Trainer(model, data, config, B=2, T=16)
    return model, trainer.state, train(trainer, n)


def test_loss_starts_at_the_logarithm_of_the_vocabulary_and_one_text_is_learnt_by_heart() -> None:
    config = TrainConfig(max_steps=300, learning_rate=3e-3, warmup_steps=10)
    _, _, events = loop(300, config)
    steps = [event for event in events if isinstance(event, StepFinished)]
    assert abs(steps[0].loss - math.log(97)) < 0.02 * math.log(97)
    assert steps[-1].loss < 0.05
    assert [step.step for step in steps] == list(range(1, 301))


def test_learning_rate_warms_up_and_sinks() -> None:
    config = TrainConfig(max_steps=40, warmup_steps=4)
    _, _, events = loop(40, config)
    rates = [event.learning_rate for event in events if isinstance(event, StepFinished)]
    assert rates[:4] == sorted(rates[:4]) and rates[3] == pytest.approx(2e-3)
    assert rates[4:] == sorted(rates[4:], reverse=True) and rates[-1] == pytest.approx(2e-4)


def test_a_step_that_is_not_finite_is_skipped_and_three_end_the_loop() -> None:
    model, state, events = loop(20, TrainConfig(max_steps=20))
    next(events)
    before = model.parameters.flat.copy()
    model.parameters.final_norm[:] = np.nan
    skipped = next(events)
    assert isinstance(skipped, StepSkipped) and "not finite" in skipped.reason
    same = np.isfinite(model.parameters.flat)
    assert np.array_equal(model.parameters.flat[same], before[same]), "no update was applied"
    with pytest.raises(UnstableError):
        list(events)
    assert state.bad_steps == 3


# Runs and their commands


def test_a_run_is_whole_and_generates(text: Path, tmp_path: Path) -> None:
    out = tmp_path / "model.bin"
    done = slim("pretrain", text, 1, out, *SMALL, "--json", "--set", "eval_every=40", "--max-steps", 120)
    events = [json.loads(line) for line in done.stdout.splitlines()]
    kinds = {event["event"] for event in events}
    assert {"run_started", "step_finished", "eval_finished", "sample_finished", "train_finished"} <= kinds
    steps = [event for event in events if event["event"] == "step_finished"]
    assert steps[-1]["step"] == 120 and steps[-1]["loss"] < steps[0]["loss"]
    evaluations = [event for event in events if event["event"] == "eval_finished"]
    assert [event["step"] for event in evaluations] == [40, 80, 120]
    assert evaluations[-1]["bits_per_byte"] < evaluations[0]["bits_per_byte"]
    record = json.loads(slim("info", out, "--json").stdout)
    assert record["history"][-1]["tokens_seen"] == 120 * 128 and record["model"]["dim"] == 32
    first = slim("generate", out, "Once", 12, "--seed", 3).stdout
    assert first.startswith("Once") and first == slim("generate", out, "Once", 12, "--seed", 3).stdout
    result = json.loads(slim("eval", out, text, "--json").stdout)
    assert result["bytes"] > 50_000 and 0 < result["bits_per_byte"] < 8
    assert result["bits_per_byte"] == pytest.approx(
        result["nats_per_token"] * result["tokens"] / math.log(2) / result["bytes"]
    )
    ids = slim("tokenize", out, "Once upon", "--ids").stdout.split()
    assert ids and all(4 <= int(i) < 320 for i in ids)


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_resume_is_exact(text: Path, tmp_path: Path, kind: int) -> None:
    """Stopped by a signal and continued on another number of threads: the same weights and losses."""
    options = [*SMALL, "--max-steps", "400", "--set", "eval_every=50", "--seed", "5"]
    whole, broken = tmp_path / "whole.bin", tmp_path / "broken.bin"
    slim("pretrain", text, 100, whole, *options)
    process = subprocess.Popen(
        [sys.executable, "-m", "slim", "pretrain", str(text), "100", str(broken), *options, "--json"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT,
    )  # fmt: skip
    assert process.stdout is not None
    for line in process.stdout:
        event = json.loads(line)
        if event["event"] == "step_finished" and event["step"] >= 130:
            process.send_signal(kind)
            break
    _, errors = process.communicate(timeout=120)
    expected = -9 if kind == signal.SIGKILL else 128 + kind
    assert process.returncode == expected, errors
    if kind != signal.SIGKILL:
        assert "slim resume" in errors
    slim("resume", broken, "--threads", 1)
    assert weights(broken) == weights(whole)
    assert losses(broken) == losses(whole)


def test_finetune_keeps_the_vocabulary_and_train_fits_the_text(text: Path, tmp_path: Path) -> None:
    base, tuned, quick = tmp_path / "base.bin", tmp_path / "tuned.bin", tmp_path / "quick.bin"
    slim("pretrain", text, 1, base, *SMALL, "--max-steps", 30)
    before = base.read_bytes()
    slim("finetune", base, ROOT / "demo" / "lighthouse-script.txt", 1, tuned, "--max-steps", 30)
    assert base.read_bytes() == before
    first, second = (json.loads(slim("info", path, "--json").stdout) for path in (base, tuned))
    assert first["model"] == second["model"] and len(second["history"]) == 2
    slim("train", text, 1, quick, "--max-steps", 5)
    assert json.loads(slim("info", quick, "--json").stdout)["model"]["dim"] == 128


def start_and_wait(*arguments: object) -> subprocess.Popen[str]:
    """A training process that has made its first steps."""
    process = subprocess.Popen(
        [sys.executable, "-m", "slim", *map(str, arguments), "--json"],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=ROOT,
    )  # fmt: skip
    assert process.stdout is not None
    for line in process.stdout:
        if '"step_finished"' in line:
            break
    return process


def test_a_second_trainer_is_refused_and_so_is_a_changed_text(text: Path, tmp_path: Path) -> None:
    out, own = tmp_path / "model.bin", tmp_path / "own.txt"
    own.write_bytes(text.read_bytes())
    first = start_and_wait("pretrain", own, 1000, out, *SMALL)
    try:
        second = slim("pretrain", own, 1, out, *SMALL, "--force", check=False)
    finally:
        first.kill()
        first.communicate()
    assert second.returncode == 1 and str(first.pid) in second.stderr, second.stderr
    own.write_bytes(text.read_bytes()[:-500])
    done = slim("resume", out, check=False)
    assert done.returncode == 3 and "--force" in done.stderr, done.stderr


def test_a_save_that_fails_leaves_the_old_file_and_training_goes_on(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real, calls = os.replace, []

    def full_disk(source: object, target: object) -> None:
        calls.append(str(target))
        if len(calls) == 4:
            raise OSError(28, "No space left on device")
        real(source, target)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "replace", full_disk)
    out = tmp_path / "model.bin"
    arguments = ["pretrain", str(text), "1", str(out), *SMALL, "--max-steps", "30"]
    assert main([*arguments, "--set", "eval_every=10", "--json"]) == 0
    captured = capsys.readouterr()
    assert "space" in captured.out and len(calls) > 6 and out.exists()


BAD = [
    (["pretrain", "nowhere.txt", "1", "OUT"], 3, "nowhere.txt"),
    (["pretrain", "EMPTY", "1", "OUT"], 3, "empty"),
    (["pretrain", "BINARY", "1", "OUT"], 3, "binary"),
    (["pretrain", "SHORT", "1", "OUT"], 3, "too short"),
    (["pretrain", "TEXT", "OUT", "1"], 2, "EPOCHS must be a number"),
    (["pretrain", "TEXT", "0", "OUT"], 2, "EPOCHS"),
    (["pretrain", "TEXT", "1", "TEXT"], 2, "OUT must not be the text"),
    (["pretrain", "TEXT", "1", "EMPTY"], 2, "--force"),
    (["pretrain", "TEXT", "1", "no/such/folder/OUT"], 3, "cannot be saved"),
    (["pretrain", "TEXT", "1", "OUT", "ten"], 2, "MAX_BYTES"),
    (["pretrain", "TEXT", "1", "OUT", "--set", "dim=250"], 2, "250 % 8"),
    (["pretrain", "TEXT", "1", "OUT", "--set", "dmi=256"], 2, "'dim'"),
    (["pretrain", "TEXT", "1", "OUT", "--preset", "defualt"], 2, "'default'"),
    (["pretrain", "TEXT", "1", "OUT", "--set", "dim=16384", "--set", "n_layers=256"], 2, "memory"),
    (["finetune", "TEXT", "TEXT", "1", "OUT"], 3, "not a model file"),
    (["generate", "TEXT", "Once", "5"], 3, "not a model file"),
    (["generate", "nowhere.bin", "Once", "5"], 3, "nowhere.bin"),
    (["generate", "nowhere.bin", "Once", "0"], 2, "N must be at least 1"),
    (["resume", "OUT"], 3, "no run"),
    (["eval", "TEXT", "TEXT"], 3, "not a model file"),
]


@pytest.mark.parametrize(("arguments", "code", "words"), BAD, ids=[" ".join(a)[:60] for a, _, _ in BAD])
def test_bad_input_is_one_clear_line(
    arguments: list[str], code: int, words: str, text: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    Path("EMPTY").write_bytes(b"")
    Path("BINARY").write_bytes(bytes(range(256)) * 8)
    Path("SHORT").write_bytes(b"Hi.")
    Path("TEXT").write_bytes(text.read_bytes())
    assert main(arguments) == code
    errors = capsys.readouterr().err.strip()
    assert words in errors.splitlines()[-1] and errors.splitlines()[-1].startswith("slim: error: ")
    assert Path("TEXT").read_bytes() == text.read_bytes()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no disk that is always full")
def test_an_error_that_cannot_be_written_keeps_its_exit_code() -> None:
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "slim", "info", "nowhere.bin"]
        done = subprocess.run(command, stderr=full, timeout=60, cwd=ROOT)
    assert done.returncode == 3


def test_help_is_quick_to_start() -> None:
    started = time.perf_counter()
    slim("--help")
    assert time.perf_counter() - started < 20, "a hang, not a slow machine"
