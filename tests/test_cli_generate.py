"""`slim generate` as a person and a program use it: what goes where, and how each mistake is answered."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from slim import checkpoint
from slim.cli import main
from slim.cli.generate import TextWriter, statistics
from slim.cli.shading import Shading
from slim.events import GenerateFinished, TokenGenerated

TOKEN_KEYS = [
    *("type", "index", "token_id", "text", "logprob", "p", "p_sampled", "entropy", "rank"),
    *("margin", "alternatives"),
]
FINISH_KEYS = [
    *("type", "finish_reason", "tokens", "tokens_per_second", "typical_p", "perplexity", "seed"),
    *("kept_characters", "own_share"),
]
Captured = pytest.CaptureFixture[str]


def slim(*arguments: object, **options: object) -> subprocess.CompletedProcess[bytes]:
    """`python -m slim` with arguments, in a process of its own."""
    command = [sys.executable, "-m", "slim", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, timeout=300, check=False, **options)  # type: ignore[call-overload]


def refused(capsys: Captured, arguments: Sequence[object], code: int) -> str:
    """The one line on stderr of a command that ends with `code` and says nothing on stdout."""
    assert main([str(argument) for argument in arguments]) == code
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and err.startswith("slim: error: ")
    return err.removeprefix("slim: error: ").rstrip("\n")


def test_text_goes_to_stdout_and_statistics_to_stderr(tiny_model: Path) -> None:
    done = slim("generate", tiny_model, "Once", 5, "--seed", 7)
    assert done.returncode == 0
    assert done.stdout.startswith(b"Once") and done.stdout.endswith(b"\n")
    last = done.stderr.decode().splitlines()[-1]
    assert last.startswith("5 tokens, ") and last.endswith(
        "seed 7; stopped: as many tokens as asked for"
    )
    again = slim("generate", tiny_model, "Once", 5, "--seed", 7)
    assert again.stdout == done.stdout


def test_json_has_exactly_the_promised_fields(tiny_model: Path, capsys: Captured) -> None:
    assert main(["generate", str(tiny_model), "ab", "4", "--json", "--seed", "0"]) == 0
    out, _ = capsys.readouterr()
    *tokens, finish = map(json.loads, out.splitlines())
    assert [list(record) for record in tokens] == [TOKEN_KEYS] * 4
    assert list(finish) == FINISH_KEYS
    assert [record["index"] for record in tokens] == [0, 1, 2, 3]
    assert {record["type"] for record in tokens} == {"token"} and finish["type"] == "finish"
    assert (finish["finish_reason"], finish["tokens"], finish["seed"]) == ("length", 4, 0)
    assert out.isascii()
    for record in tokens:
        assert 0.0 < record["p"] <= 1.0 and np.exp(record["logprob"]) == pytest.approx(record["p"])


def test_samples_are_what_their_seeds_write_alone(tiny_model: Path, capsys: Captured) -> None:
    together = slim("generate", tiny_model, "a", 12, "--seed", 5, "--samples", 3)
    alone = [slim("generate", tiny_model, "a", 12, "--seed", seed) for seed in (5, 6, 7)]
    assert together.stdout == b"\n".join(one.stdout for one in alone)
    *lines, last = together.stderr.decode().splitlines()
    assert [line.split("seed ")[1].split(";")[0] for line in lines] == ["5", "6", "7"]
    assert last.startswith("3 texts, ") and last.endswith(" tokens/s together")
    command = ["generate", str(tiny_model), "a", "4", "--seed", "5", "--samples", "2", "--json"]
    assert main(command) == 0
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {record["sample"] for record in records} == {0, 1}
    assert [r["sample"] for r in records if r["type"] == "finish"] == [0, 1]


def test_the_prompt_may_come_from_stdin_without_its_last_line_break(tiny_model: Path) -> None:
    with_break = slim("generate", tiny_model, "-", 3, "--seed", 1, input=b"Once\r\n")
    assert with_break.stdout.startswith(b"Once") and not with_break.stdout.startswith(b"Once\r")
    direct = slim("generate", tiny_model, "Once", 3, "--seed", 1)
    assert with_break.stdout == direct.stdout


def test_a_prompt_of_any_bytes_is_taken(tiny_model: Path) -> None:
    done = slim("generate", tiny_model, "-", 2, "--seed", 1, input=b"\xff\x1b[2J\x00")
    assert done.returncode == 0
    assert b"\x1b" not in done.stdout and "␛[2J␀".encode() in done.stdout


def test_raw_output_is_raw_and_other_output_is_not(tiny_model: Path) -> None:
    raw = slim("generate", tiny_model, "\x1b[1mx", 1, "--seed", 1, "--raw")
    safe = slim("generate", tiny_model, "\x1b[1mx", 1, "--seed", 1)
    assert raw.stdout.startswith(b"\x1b[1mx") and safe.stdout.startswith("␛[1mx".encode())


def test_no_prompt_begins_a_text(tiny_model: Path, capsys: Captured) -> None:
    assert main(["generate", str(tiny_model)]) == 0
    _, err = capsys.readouterr()
    assert "seed" in err


def test_it_never_writes_more_than_the_context_holds(tiny_model: Path, capsys: Captured) -> None:
    arguments = ["--top-k", "0", "--seed", "3", "--json"]
    assert main(["generate", str(tiny_model), "a" * 40, "1000000000", *arguments]) == 0
    finish = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert finish["finish_reason"] in ("context", "eos") and finish["tokens"] <= 64 - 41 + 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["x", "0"], "N must be at least 1, but is 0"),
        (["x", "-3"], "N must be at least 1, but is -3"),
        (["once", "upon"], "put a prompt of several words in quotes"),
        (["x", "5", "--tempe", "1"], "did not expect '--tempe' (did you mean --temp?)"),
        (["x", "5", "--temp", "warm"], "invalid float value: 'warm'"),
        (["x", "5", "--temp", "-1"], "temperature must be a number from 0 to 100, but is -1"),
        (["x", "5", "--temp", "nan"], "temperature must be a number from 0 to 100, but is nan"),
        (["x", "5", "--top-p", "0"], "top_p must be a number from 1e-06 to 1, but is 0"),
        (["x", "5", "--top-k", "-1"], "top_k must be a whole number from 0, but is -1"),
        (["x", "5", "--samples", "0"], "--samples must be from 1 to 256, but is 0"),
        (["x", "5", "--stop", ""], "a stop string must have at least one character"),
        (["x", "5", "--stop-confidence", "3"], "stop_confidence must be off, auto or a mean"),
        (["x", "5", "--stop-confidence", "often"], "but is 'often'"),
        (["y" * 64], "the prompt has 64 tokens but the model reads at most 63: shorten it"),
    ],
)
def test_what_makes_no_sense_is_a_usage_error(
    tiny_model: Path, capsys: Captured, arguments: list[str], words: str
) -> None:
    assert words in refused(capsys, ["generate", tiny_model, *arguments], 2)


def test_a_prompt_beyond_all_bounds_is_not_even_encoded(tiny_model: Path) -> None:
    done = slim("generate", tiny_model, "-", 5, input=b"a" * 9_000_000)
    assert done.returncode == 2 and b"longer than 8,388,608 bytes" in done.stderr


def test_bad_model_files_are_refused_in_one_line(
    tiny_model: Path, tmp_path: Path, capsys: Captured
) -> None:
    whole = tiny_model.read_bytes()
    flipped = bytearray(whole)
    flipped[-100] ^= 1
    cases = {
        "no such file": (None, "cannot be opened: no such file"),
        "empty": (b"", "is empty"),
        "text": (b"Dear diary, today", "it is text"),
        "zip": (b"PK\x03\x04" + bytes(200), "a zip archive"),
        "gguf": (b"GGUF" + bytes(200), "a GGUF model"),
        "html": (b"<!DOCTYPE html><html>", "an HTML page"),
        "gzip": (b"\x1f\x8b" + bytes(200), "gzip-compressed"),
        "cut": (whole[:-1], "is cut short"),
        "longer": (whole + b"x", "has something appended"),
        "damaged": (bytes(flipped), "is damaged"),
    }
    for name, (data, words) in cases.items():
        path = tmp_path / name.replace(" ", "_")
        if data is not None:
            path.write_bytes(data)
        assert words in refused(capsys, ["generate", path, "x", "5"], 3), name
    assert "is a folder" in refused(capsys, ["generate", tmp_path, "x"], 3)


def test_a_model_of_damaged_weights_says_so(tiny_model: Path, tmp_path: Path) -> None:
    """No writer of ours saves NaN, so its checksum is right: a stranger made it."""
    arrays, metadata = checkpoint.read(tiny_model)
    arrays["model.norm.weight"][:] = np.inf
    arrays["model.norm.weight"][:] = np.nan
    path = tmp_path / "nan.bin"
    shapes = {name: array.shape for name, array in arrays.items()}
    import hashlib

    header = checkpoint._header(shapes, metadata, "0" * 64)
    digest = hashlib.sha256(header + b"".join(arrays[name].tobytes() for name in sorted(arrays)))
    header = checkpoint._header(shapes, metadata, digest.hexdigest())
    body = b"".join(arrays[name].tobytes() for name in sorted(arrays))
    path.write_bytes(len(header).to_bytes(8, "little") + header + body)
    done = slim("generate", path, "x", 5)
    assert done.returncode == 3 and b"its weights are damaged" in done.stderr
    text = tmp_path / "text.txt"
    text.write_text("some text", encoding="utf-8")
    done = slim("eval", path, text)
    assert done.returncode == 3 and b"its weights are damaged" in done.stderr


def test_a_reader_that_has_had_enough_ends_it_quietly(tiny_model: Path) -> None:
    command = [sys.executable, "-m", "slim", "generate", str(tiny_model), "a", "60", "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    err = process.stderr.read()
    process.stderr.close()
    assert process.wait(timeout=120) == 0 and err == b""


def test_ctrl_c_before_the_first_token_ends_at_once(tiny_model: Path, tmp_path: Path) -> None:
    """An empty kernel cache: it is compiling, for half a minute, when the signal comes."""
    environment = {**os.environ, "SLIM_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-m", "slim", "generate", str(tiny_model), "a", "60"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
    )
    deadline = time.monotonic() + 60
    while not list(tmp_path.rglob("*.nbi")) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    began = time.monotonic()
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130 and out == b"" and b"Traceback" not in err
    assert time.monotonic() - began < 30  # it does not wait for what is compiled


def token(text: str, p: float = 0.5) -> TokenGenerated:
    return TokenGenerated(0, 5, text, -0.7, p, p, 0.1, 0, 0.1)


def finish(text: str, kept: int, reason: str = "length") -> GenerateFinished:
    return GenerateFinished(reason, text[:kept], 3, 1, 20.0, 0.5, 2.0, 7, kept)


def test_what_a_rule_may_take_back_is_held_back_from_a_pipe(capsys: Captured) -> None:
    writer = TextWriter("P:", str, Shading("off", False), held_tokens=2, last_line_break=True)
    assert not writer.begun
    for text in ("one. ", "two. ", "xq"):
        writer.token(token(text))
    assert writer.begun
    assert capsys.readouterr().out == "P:one. "
    writer.finish(finish("one. two. xq", 9, "low_confidence"))
    assert capsys.readouterr().out == "two.\n"


@pytest.mark.parametrize("style", ["off", "color", "plain"])
def test_on_a_terminal_no_word_is_cut(
    style: str, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "20")
    words = ["Once", "upon", "a", "time", "there", "was", "an", "extraordinarily", "small", "elephant", "that", "sang"]
    pieces = [piece for word in words for piece in (" " + word[:3], word[3:]) if piece]
    shading = Shading(style, True)
    writer = TextWriter("Listen:", str, shading, 0, last_line_break=True)
    for number, piece in enumerate(pieces):
        writer.token(token(piece, 0.01 + 0.9 * (number % 2)))
    text = "".join(pieces)
    writer.finish(finish(text, len(text)))
    out = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out)
    assert out.endswith("san{g}\n" if style == "plain" else "sang\n")
    assert all(len(line) <= 20 for line in out.split("\n"))
    assert re.sub(r"[()\[\]{}]", "", out).split() == ["Listen:", *words]


def test_a_text_without_tokens_still_shows_its_prompt(capsys: Captured) -> None:
    writer = TextWriter("P:", str, Shading("off", False), held_tokens=0, last_line_break=False)
    writer.finish(finish("", 0))
    assert capsys.readouterr().out == "P:"


def test_statistics_are_a_line_whatever_the_numbers() -> None:
    line = statistics(GenerateFinished("eos", "", 1, 1, 1e6, 0.0, 1e300, 5, 0))
    assert line == (
        "1 token, 1,000,000 tokens/s, typical p 0.00, perplexity 1e+300, seed 5; "
        "the text came to its end"
    )
