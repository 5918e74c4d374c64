"""A stranger's text on its way to a terminal: through every command, on a pseudo-terminal, no control byte gets there."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from slim.cli import COMMANDS
from slim.model_file import load_model, model_metadata, save_model

ROOT = Path(__file__).parents[1]

# What a terminal would obey, each before a mark by which it is found again.
PAYLOADS = {
    "colour": "\x1b[31mA0",
    "title": "\x1b]0;A1\x07A1",
    "C1 control sequence": "\x9b31mA2",
    "turned around": "\u202eA3",
    "isolated": "\u2066A4",
    "zero width": "\u200bA5",
    "start of line": "\rA6",
    "backspace and bell": "\x08\x07A7",
    "delete": "\x7fA8",
    "raw byte": "\udc9bA9",
    "line separator": "\u2028B0",
}
EVERYTHING = "x" + "".join(PAYLOADS.values())

# Runs many commands in one process, on the terminal that it was given.
DRIVER = """
import json, os, sys, traceback
from slim import recipe
from slim.cli import main
recipe.CALIBRATION_SECONDS = (0.0, 0.0)
for number, arguments in enumerate(json.load(open(sys.argv[1]))):
    sys.stdout.flush(); sys.stderr.flush()
    os.write(1, b"\\n@@@%d@@@\\n" % number)
    try:
        main(arguments)
    except BaseException:
        os.write(1, b"CRASH " + traceback.format_exc().encode("utf-8", "replace"))
"""


def on_a_terminal(tmp_path: Path, calls: Sequence[Sequence[str]]) -> list[bytes]:
    """What a terminal gets to see of each call."""
    file = tmp_path / "calls.json"
    file.write_text(json.dumps(calls))
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "400", "LINES": "50"}
    with subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(file)],
        stdin=subprocess.DEVNULL, stdout=theirs, stderr=theirs, cwd=tmp_path,
        env={**environment, "PYTHONPATH": str(ROOT)},
    ) as process:  # fmt: skip
        os.close(theirs)
        seen, deadline = b"", time.monotonic() + 300
        try:
            while time.monotonic() < deadline and (part := os.read(ours, 2**16)):
                seen += part
        except OSError:  # Linux says EIO when the other end is closed
            pass
        os.close(ours)
        assert process.wait(60) == 0
    outputs = []
    for number in range(len(calls)):
        _, found, seen = seen.partition(b"@@@%d@@@" % number)
        assert found, f"{calls[number]} ended everything"
        outputs.append(seen.partition(b"\n@@@")[0])
    return outputs


def assert_harmless(calls: Sequence[Sequence[str]], outputs: Sequence[bytes]) -> None:
    for call, output in zip(calls, outputs, strict=True):
        assert b"CRASH" not in output, (call, output)
        assert b"Traceback" not in output, (call, output)
        for name, payload in PAYLOADS.items():
            raw = payload.encode("utf-8", "surrogateescape")
            assert raw not in output, (name, call, output)


@pytest.fixture(scope="module")
def model(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model file that tells hostile things about itself."""
    loaded, tokenizer, _ = load_model(tiny_model)
    text = EVERYTHING.replace("\udc9b", "\\udc9b")
    history: list[dict[str, object]] = [{"command": text, "data": text, text: text, "loss": text}]
    path = tmp_path_factory.mktemp("model") / "hostile.bin"
    save_model(path, loaded.parameters, model_metadata(loaded.config, tokenizer, history))
    return path


def complaints(text: str, model: Path) -> list[list[str]]:
    """Calls that end with a complaint about what they were given: every command, and what is special about some."""
    calls: list[list[str]] = [[text], [f"--{text}"], ["--"], ["--", text]]
    for command in COMMANDS:
        if command not in ("doctor", "demo", "bench", "runs"):
            calls.append([command, text, text, text, text])
        calls += [[command, f"--{text}"], [command, text, f"--{text}={text}"]]
    train = ["pretrain", "missing.txt"]
    calls += [
        [*train, text, "x.bin"],
        [*train, "1", "x.bin", text],
        [*train, "1", "x.bin", "--set", text],
        [*train, "1", "x.bin", "--set", f"{text}=1"],
        [*train, "1", "x.bin", "--set", f"dim={text}"],
        [*train, "1", "x.bin", "--split", text],
        [*train, "1", "x.bin", "--preset", text],
        [*train, "1", "x.bin", "--precision", text],
        [*train, "1", "x.bin", "--config", text],
        [*train, "1", f"{text}/x.bin"],
        ["pretrain", f"{text}*", "1", "x.bin"],
        ["generate", str(model), "hello", text],
        ["generate", str(model), "hello", "3", "--temp", text],
        ["export", str(model), "x", "--to", text],
        ["eval", str(model), text],
    ]
    return calls


def test_every_complaint_of_every_command(tmp_path: Path, model: Path) -> None:
    calls = complaints(EVERYTHING, model)
    assert len(calls) > 50
    outputs = on_a_terminal(tmp_path, calls)
    assert_harmless(calls, outputs)
    assert sum(b"A0" in output for output in outputs) > len(calls) // 2, "what was wrong is named"


def write_texts(folder: Path) -> dict[str, Path]:
    """Texts with hostile names and contents."""
    name = EVERYTHING[:60]
    files = {}
    for kind, contents in {
        "stories": (EVERYTHING + " and so on.\n<|endoftext|>\n") * 200,
        "transcript": f"User: {EVERYTHING}\nAssistant: {EVERYTHING}\n" * 100,
        "binary": "\0" * 100,
        "html": "<html>",
    }.items():
        files[kind] = folder / f"{kind}-{name}.txt"
        files[kind].write_bytes(contents.encode("utf-8", "surrogateescape"))
    for number, line in enumerate((
        {EVERYTHING: 1}, {"messages": [{"role": EVERYTHING, "content": ""}]}, EVERYTHING, {"text": 1},
    )):  # fmt: skip
        files[f"records{number}"] = folder / f"r{number}-{name}.jsonl"
        files[f"records{number}"].write_text(json.dumps(line))
    files["config"] = folder / f"c-{name}.toml"
    files["config"].write_bytes(b'"\\u001b[31mA0" = 1\n')
    return files


def test_texts_prompts_models_and_what_they_write(tmp_path: Path, model: Path) -> None:
    texts = write_texts(tmp_path)
    out = str(tmp_path / f"out-{EVERYTHING[:50]}.bin")
    small = [
        *("--set", "dim=16", "--set", "n_layers=1", "--set", "n_heads=2", "--set", "hidden_dim=24"),
        *("--vocab-size", "290", "--seq-len", "32", "--batch-tokens", "128", "--max-steps", "6"),
        *("--set", "sample_tokens=24", "--set", "eval_every=2"),
    ]
    calls = [
        ["pretrain", str(texts["stories"]), "1", out, *small],
        ["pretrain", str(texts["stories"]), "1", out],
        ["resume", out],
        ["pretrain", str(texts["transcript"]), "1", str(tmp_path / "t.bin"), *small, "-v"],
        ["pretrain", str(tmp_path), "1", str(tmp_path / "u.bin"), *small],
        *(
            ["pretrain", str(texts[kind]), "1", str(tmp_path / "v.bin"), *small]
            for kind in ("binary", "html", "records0", "records1", "records2", "records3")
        ),
        ["pretrain", str(texts["stories"]), "1", str(tmp_path / "w.bin"), "--config", str(texts["config"])],
        ["info", out],
        ["info", str(model)],
        ["info", str(texts["html"])],
        ["generate", str(model), EVERYTHING, "20", "--seed", "1"],
        ["generate", out, EVERYTHING, "30", "--seed", "2", "--temp", "2"],
        ["tokenize", str(model), EVERYTHING],
        ["eval", out, str(texts["stories"])],
        ["eval", out, str(texts["html"])],
        ["export", out, str(tmp_path / f"hf-{EVERYTHING[:30]}")],
    ]  # fmt: skip
    outputs = on_a_terminal(tmp_path, calls)
    assert_harmless(calls, outputs)
    assert b"A0" in outputs[0] and b"A0" in outputs[15], "a sample and a prompt are shown"


def test_the_test_would_notice(tmp_path: Path) -> None:
    with pytest.raises(AssertionError):
        assert_harmless([["x"]], [b"slim: error: \x1b[31mA0"])


@pytest.mark.soak
@pytest.mark.parametrize("name", list(PAYLOADS))
def test_every_complaint_with_every_payload(tmp_path: Path, model: Path, name: str) -> None:
    calls = complaints("x" + PAYLOADS[name], model)
    assert_harmless(calls, on_a_terminal(tmp_path, calls))
