"""`slim demo` as a newcomer meets it, with a model of a few thousand weights: stopped, gone on with, and shown again."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.cells import cell_len

from slim.cli import demo, main
from slim.demo_recipe import PROMPT

# The demo with another model and less time; all else is as it is.
SMALL_DEMO = """
import dataclasses, sys
from slim import demo_recipe, recipe
from slim.cli import demo, main
demo_recipe.RECIPE.update(
    preset="tiny", dim=32, n_layers=1, n_heads=2, hidden_dim=32, vocab_size=300, batch_tokens=256, seq_len=64,
    max_seq_len=128, sample_tokens=30,
)
demo_recipe.LEAST_SECONDS = 9.0
demo.STORY = dataclasses.replace(demo.STORY, max_tokens=60)
sys.exit(main(["demo", *sys.argv[1:]]))
"""
OUT = "my demo.bin"  # a name that has to be quoted where it is part of a command


def start(folder: Path, columns: int, *arguments: str) -> subprocess.Popen[str]:
    path = os.pathsep.join(
        filter(None, [str(Path(demo.__file__).parents[2]), os.environ.get("PYTHONPATH")])
    )
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", SMALL_DEMO, "--minutes", "0.1", "--out", OUT, *arguments],
        cwd=folder, env={**os.environ, "COLUMNS": str(columns), "PYTHONPATH": path},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, encoding="utf-8",
    )  # fmt: skip


def assert_shown(stdout: str, width: int) -> None:
    """The three parts of the result, in lines that fit."""
    for line in stdout.splitlines():
        assert cell_len(line) <= width or line.startswith(("  slim ", "      ", "The same")), line
    first, stories = stdout.index("The same beginning"), stdout.index("Three stories")
    last = stdout.index("Try next")
    assert first < stories < last
    labels = re.findall(r"^ *(\d+) %   ", stdout[first:stories], re.MULTILINE)
    assert labels[0] == "0" and labels[-1] == "100" and 2 <= len(labels) <= 3
    assert " ".join(stdout[first:stories].split()).count(PROMPT) == len(labels) + 1
    told = " ".join(stdout[stories:last].split())
    assert all(beginning in told for beginning in demo.STORIES_FROM)
    assert f"slim generate '{OUT}'" in stdout[last:] and "slim --help" in stdout[last:]


def test_the_demo_from_its_first_step_to_its_stories(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # Stopped on the way.
    process = start(tmp_path, 132)
    metrics = tmp_path / f"{OUT}.run" / "metrics.jsonl"
    until = time.monotonic() + 180
    while not (metrics.exists() and '"step_finished"' in metrics.read_text()):
        assert process.poll() is None and time.monotonic() < until
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 130 and stdout == ""
    welcome, _, _ = stderr.partition(" minute")
    assert welcome.startswith("A model that knows nothing reads 1,560 short stories")
    assert all(len(line) < 80 for line in welcome.splitlines())
    assert f"goes on where it stopped: slim demo --out '{OUT}'" in stderr
    monkeypatch.chdir(tmp_path)
    assert demo.state_of(OUT) == "stopped"

    # The same command goes on, to the end.
    process = start(tmp_path, 132)
    stdout, stderr = process.communicate(timeout=180)
    assert process.returncode == 0, stderr
    assert "Going on with the demo that was stopped" in stderr
    assert_shown(stdout, 80)
    assert demo.state_of(OUT) == "finished"

    # And shows it again, with other stories, in a narrow window too.
    before = Path(OUT).read_bytes()
    again, stderr = start(tmp_path, 50).communicate(timeout=120)
    assert f"{OUT} is there from an earlier demo" in stderr
    assert_shown(again, 50)
    assert again != stdout and Path(OUT).read_bytes() == before

    # A file that is not the demo's is not touched.
    Path("letter.txt").write_text("Dear all")
    assert main(["demo", "--out", "letter.txt"]) == 2
    assert "exists and is not the demo's" in capsys.readouterr().err
    assert Path("letter.txt").read_text() == "Dear all"


def test_states_of_what_is_there(tmp_path: Path) -> None:
    out = tmp_path / "d.bin"
    assert demo.state_of(str(out)) == "none"
    out.write_bytes(b"something")
    assert demo.state_of(str(out)) == "foreign"
    run = tmp_path / "d.bin.run"
    run.mkdir()
    (run / "last").write_bytes(b"")
    settings = {"data": "x/stories.txt", "train": {"sample_prompts": [PROMPT]}, "total_steps": 100}
    for record, state in (
        (settings, "stopped"),
        ({**settings, "data": "other.txt"}, "foreign"),
        ({**settings, "train": {"sample_prompts": ["Else"]}}, "foreign"),
        ({**settings, "train": 7}, "foreign"),
        ({}, "foreign"),
    ):
        (run / "settings.json").write_text(json.dumps(record))
        assert demo.state_of(str(out)) == state
    (run / "settings.json").write_text("{")
    assert demo.state_of(str(out)) == "foreign"


def test_answers_are_those_nearest_to_the_shares(tmp_path: Path) -> None:
    out = tmp_path / "d.bin"
    run = tmp_path / "d.bin.run"
    run.mkdir()
    settings = {"data": "stories.txt", "train": {"sample_prompts": [PROMPT]}, "total_steps": 100}
    (run / "settings.json").write_text(json.dumps(settings))
    assert demo.answers(str(out)) == []
    lines = [json.dumps({"prompt": PROMPT, "step": n, "text": f"at {n}"}) for n in (0, 20, 40, 99)]
    lines += [
        "{",
        "[]",
        json.dumps({"prompt": PROMPT}),
        json.dumps({"prompt": "x", "step": 25, "text": ""}),
    ]
    (run / "samples.jsonl").write_text("\n".join(lines))
    assert demo.answers(str(out)) == [("0 %", "at 0"), ("20 %", "at 20"), ("99 %", "at 99")]
