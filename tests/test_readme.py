"""The README's commands, as they are written there: each is run, on a model of a few thousand weights."""

from __future__ import annotations

import io
import json
import re
import shlex
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from slim import recipe
from slim.cli import COMMANDS, main

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SIZES = ["dim=16", "n_layers=1", "n_heads=2", "hidden_dim=16", "vocab_size=300", "sample_tokens=2"]
# What makes a run short; OUT may be there already, from the command before.
SHORT = ["--max-steps", "2", "--force", "-q"]
TINY = {
    "pretrain": [*(part for size in SIZES for part in ("--set", size)), *SHORT],
    "train": [*(part for size in SIZES for part in ("--set", size)), *SHORT],
    "finetune": SHORT,
}
ELSEWHERE = {"demo": "test_demo.py", "bench": "test_bench.py", "import": "test_import.py"}


def commands() -> Iterator[tuple[str, str]]:
    """Every line of a code block that runs slim: (text for stdin, the command)."""
    for line in re.findall(r"^ {4}(.*\bslim .*)$", README, re.MULTILINE):
        if re.match(r"[a-z_]+\.py|[a-z_]+/ ", line.strip()) or line.startswith("python3 -m venv"):
            continue
        given, _, command = line.rpartition(" | slim ")
        if not command.startswith("slim "):
            command = f"slim {command}" if given else line
        if command.startswith("slim "):
            yield (shlex.split(given)[-1] + "\n" if given else ""), command


FOUND = list(commands())


def block_after(title: str) -> str:
    """The code block that begins with a comment."""
    found = re.search(rf"^ {{4}}# {re.escape(title)}\n((?: {{4}}.*\n)+)", README, re.MULTILINE)
    assert found is not None
    return re.sub(r"^ {4}", "", found[1], flags=re.MULTILINE)


def test_commands_are_found() -> None:
    named = {shlex.split(command, comments=True)[1] for _, command in FOUND}
    assert len(FOUND) >= 20 and named <= set(COMMANDS) | {"COMMAND"}


def test_every_command_works_as_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(recipe, "CALIBRATION_SECONDS", (0.0, 0.0))
    stories = (ROOT / "demo" / "stories.txt").read_bytes()[:40_000]
    Path("demo").mkdir()
    script = (ROOT / "demo" / "lighthouse-script.txt").read_bytes()
    Path("demo/lighthouse-script.txt").write_bytes(script[:40_000])
    for name in ("demo/stories.txt", "corpus.txt", "notes.txt", "other.txt"):
        Path(name).write_bytes(stories)
    talk = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Good morning."}]
    Path("talks.jsonl").write_text((json.dumps({"messages": talk}) + "\n") * 99, encoding="utf-8")
    Path("run.toml").write_text(block_after("run.toml"), encoding="utf-8")
    for stdin, command in FOUND:
        _, name, *rest = shlex.split(command.partition(" | ")[0], comments=True)
        if (
            name in ELSEWHERE
            or "--tui" in rest  # tests/tui
            or "TinyLlama-folder" in rest  # somebody else's model
            or name == "COMMAND"
            or (rest[1:2] == ["base.gguf"] and find_spec("gguf") is None)
        ):
            continue
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(stdin.encode()), "utf-8"))
        code = main([name, *rest, *TINY.get(name, [])])
        assert code == 0, f"{command}: {capsys.readouterr().err}"
    made = {path.name for path in tmp_path.iterdir()}
    assert made >= {"base.bin", "base.bin.run", "script.bin", "quick.bin", "base-hf", "base-c.bin"}
    capsys.readouterr()


def test_files_that_the_readme_names_are_there() -> None:
    for name in re.findall(r"\b(?:demo|tests|slim)/[\w./-]+\.(?:txt|py|md)\b", README):
        assert (ROOT / name).is_file(), name
