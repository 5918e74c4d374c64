"""`slim score` and `slim calibrate` as a person and a program use them."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from slim import checkpoint
from slim.calibration import Calibration
from slim.cli import main

Captured = pytest.CaptureFixture[str]
TEXT = "The fox ran.\nIt rained, and rained.\n"


@pytest.fixture
def text_file(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text(TEXT, encoding="utf-8")
    return path


@pytest.fixture
def model(tiny_model: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(tiny_model, tmp_path / "model.bin"))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "data.txt"
    stories = [f"Once there were {n} foxes. They ran." for n in range(12)]
    path.write_text("\n<|endoftext|>\n".join(stories), encoding="utf-8")
    return path


def test_score_shows_the_text_and_what_it_comes_to(
    tiny_model: Path, text_file: Path, capsys: Captured
) -> None:
    assert main(["score", str(tiny_model), str(text_file), "--confidence", "off"]) == 0
    out, err = capsys.readouterr()
    assert out == TEXT
    assert err.splitlines()[-1].startswith("36 tokens, typical p 0.00")
    assert main(["score", str(tiny_model), str(text_file), "--confidence", "plain"]) == 0
    out, err = capsys.readouterr()
    # Random weights expect nothing: everything is below .05.
    assert out == "{The fox ran.}\n{It rained, and rained.}\n"
    assert "model p: p >= .8  .5  (.2)  [.05]  {less}" in err


def test_what_goes_to_a_file_has_brackets_and_no_escapes(
    tiny_model: Path, text_file: Path, capsys: Captured
) -> None:
    assert main(["score", str(tiny_model), str(text_file), "-q"]) == 0
    assert capsys.readouterr() == ("{The fox ran.}\n{It rained, and rained.}\n", "")


def test_what_is_no_text_is_refused(tiny_model: Path, tmp_path: Path, capsys: Captured) -> None:
    path = tmp_path / "text.txt"
    path.write_bytes(bytes(range(128, 256)) * 20)
    assert main(["score", str(tiny_model), str(path)]) == 3
    assert "is binary, or text in another encoding" in capsys.readouterr().err


def test_score_as_json(tiny_model: Path, text_file: Path, capsys: Captured) -> None:
    assert main(["score", str(tiny_model), str(text_file), "--json", "--alternatives", "2"]) == 0
    out, _ = capsys.readouterr()
    *tokens, last = map(json.loads, out.splitlines())
    assert "".join(token["text"] for token in tokens) == TEXT and out.isascii()
    assert {token["type"] for token in tokens} == {"token"}
    assert all(len(token["alternatives"]) == 2 for token in tokens)
    assert list(last) == ["tokens", "bytes", "typical_p", "perplexity", "bits_per_byte", "type"]
    assert (last["type"], last["tokens"], last["bytes"]) == ("finish", 36, 36)


def test_score_reads_stdin_and_shows_a_strangers_text_safely(
    tiny_model: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "sys.stdin", SimpleNamespace(buffer=io.BytesIO(b"a\x1b[2Jb"), isatty=lambda: False)
    )
    assert main(["score", str(tiny_model), "-", "--confidence", "off"]) == 0
    assert capsys.readouterr().out == "a␛[2Jb\n"


@pytest.mark.parametrize(
    ("content", "complaint"),
    [(b"", "is empty"), (b"PK\x03\x04....", "is a zip archive")],
)
def test_score_refuses_what_is_no_text(
    tiny_model: Path, tmp_path: Path, capsys: Captured, content: bytes, complaint: str
) -> None:
    path = tmp_path / "x"
    path.write_bytes(content)
    assert main(["score", str(tiny_model), str(path)]) == 3
    assert complaint in capsys.readouterr().err
    assert main(["score", str(tiny_model), str(path), "--alternatives", "-1"]) == 2


def test_calibrate_writes_into_the_file_and_leaves_the_weights_alone(
    model: Path, data: Path, capsys: Captured
) -> None:
    weights, before = checkpoint.read(model)
    command = ["calibrate", str(model), str(data), "--samples", "8", "--precision", "fp32"]
    assert main([*command, "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    after, metadata = checkpoint.read(model)
    assert metadata["calibration"] == record and Calibration.from_record(record) is not None
    assert {**metadata, "calibration": None, "sha256": 0} == {**before, "sha256": 0}
    assert all((after[name] == weights[name]).all() for name in weights)
    assert (record["samples"], record["held_out"]["documents"], record["precision"]) == (
        8,
        12,
        "fp32",
    )
    assert main(command) == 0
    out, err = capsys.readouterr()
    assert "--stop-confidence auto is -5." in out and "20% of 8 of its own texts" in out
    assert "too little to mean much" in out and "calibrated in" in err
    assert main(["info", str(model)]) == 0
    assert "too little to mean much" in capsys.readouterr().out
    # What is usual for the model is what it is shaded by now, and what `auto` stops by.
    assert main(["generate", str(model), "a", "5", "--confidence", "plain"]) == 0
    assert "by what is usual for this model" in capsys.readouterr().err
    assert main(["generate", str(model), "a", "60", "--stop-confidence", "auto", "--json"]) == 0
    finish = json.loads(capsys.readouterr().out.splitlines()[-1])
    stopped = finish["finish_reason"] == "low_confidence"
    assert finish["own_share"] == (0.2 if stopped else None)


def test_relative_bins_need_a_calibration(tiny_model: Path, capsys: Captured) -> None:
    command = ["generate", str(tiny_model), "a", "5", "--confidence", "plain", "--bins", "relative"]
    assert main(command) == 2
    assert "slim calibrate MODEL DATA" in capsys.readouterr().err


def test_a_checkpoint_of_a_run_is_not_calibrated(
    tmp_path: Path, model: Path, data: Path, capsys: Captured
) -> None:
    tensors, metadata = checkpoint.read(model)
    state = {**tensors, "slim.opt.m": next(iter(tensors.values()))}
    path = tmp_path / "last"
    checkpoint.write(path, state, metadata)
    assert main(["calibrate", str(path), str(data)]) == 3
    assert "is a checkpoint of a run" in capsys.readouterr().err
    assert "slim.opt.m" in checkpoint.read(path)[0]
    assert main(["calibrate", str(model), str(data), "--seconds", "-1"]) == 2
