"""The dashboard as a process of its own, in a pseudo-terminal: it trains for real, is left and killed, and gives it back."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from terminal import DASHBOARD, ROOT, SLIM, Terminal

TEXT = "The cat sat on the mat. The dog ran to the park and the cat ran after it.\n" * 120
TINY = ("--set", "dim=32", "--set", "n_layers=1", "--set", "n_heads=2", "--set", "hidden_dim=32")
SHORT = ("--seq-len", "32", "--batch-tokens", "64", "--set", "sample_tokens=8")


@pytest.fixture
def open_terminal(tmp_path: Path) -> Iterator[object]:
    opened: list[Terminal] = []

    def start(*arguments: str) -> Terminal:
        (tmp_path / "notes.txt").write_text(TEXT)
        opened.append(Terminal([*SLIM, *arguments] if arguments else [*DASHBOARD], tmp_path))
        return opened[-1]

    yield start
    for terminal in opened:
        terminal.close()


def train(start, *more: str) -> Terminal:  # type: ignore[no-untyped-def]
    terminal = start("train", "notes.txt", "100000", "out.bin", "--tui", *TINY, *SHORT, *more)
    terminal.wait_for(r"step [1-9]")
    return terminal  # type: ignore[no-any-return]


def test_home_is_shown_and_left(open_terminal, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    terminal = open_terminal()
    terminal.wait_for("No models yet")
    terminal.resize((120, 40))
    terminal.type("?")
    terminal.wait_for("Everywhere")
    terminal.type("\x1b")
    time.sleep(0.3)
    terminal.type("\x11")
    assert terminal.end() == 0
    assert terminal.restored


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_killed_while_it_trains_it_saves_and_gives_the_terminal_back(  # type: ignore[no-untyped-def]
    open_terminal, tmp_path: Path, number: signal.Signals
) -> None:
    terminal = train(open_terminal)
    terminal.process.send_signal(number)
    assert terminal.end() == 128 + number
    assert terminal.restored
    assert (
        "stopped after step" in terminal.plain
        and "go on with: slim resume out.bin" in terminal.plain
    )
    assert (tmp_path / "out.bin.run" / "last").is_file() and (tmp_path / "out.bin").is_file()


@pytest.mark.parametrize("training", [False, True])
def test_a_terminal_that_is_gone_without_a_signal_ends_it(open_terminal, tmp_path: Path, training: bool) -> None:  # type: ignore[no-untyped-def]
    """And it is saved, instead of looking for keys for ever with all the power of a core."""
    terminal = train(open_terminal) if training else open_terminal()
    if not training:
        terminal.wait_for("No models yet")
    terminal.hang_up()
    assert terminal.process.wait(60) == 128 + signal.SIGHUP
    assert (tmp_path / "out.bin.run" / "last").is_file() == training


def test_saved_and_stopped_by_key(open_terminal, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    terminal = train(open_terminal)
    terminal.type("\x11")
    terminal.wait_for("keep training, without the dashboard")
    terminal.type("s")
    assert terminal.end() == 0
    assert terminal.restored
    assert (tmp_path / "out.bin.run" / "last").is_file()


def test_a_run_of_the_form_is_told_to_its_end(open_terminal, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    terminal = open_terminal()
    terminal.wait_for("No models yet")
    terminal.type("o")
    terminal.wait_for("train on it")
    terminal.type("notes.txt\r")
    terminal.wait_for("A new run")
    terminal.wait_for("notes.bin")
    terminal.type("\x12")  # ctrl+r
    terminal.wait_for(r"step [1-9]")
    terminal.type("\x11")
    terminal.wait_for("keep training, without the dashboard")
    terminal.type("s")
    assert terminal.end(60) == 0
    assert terminal.restored
    assert "stopped after step" in terminal.plain and "go on with: slim resume" in terminal.plain
    assert (tmp_path / "notes.bin.run" / "last").is_file()


def test_stopped_from_outside_it_goes_on_and_can_be_left(open_terminal) -> None:  # type: ignore[no-untyped-def]
    terminal = open_terminal()
    terminal.wait_for("No models yet")
    for _ in range(2):
        terminal.process.send_signal(signal.SIGSTOP)
        time.sleep(0.2)
        terminal.process.send_signal(signal.SIGCONT)
        terminal.forget()
        terminal.wait_for("No models yet")  # the whole screen anew
    terminal.type("?")
    terminal.wait_for("On this screen")
    terminal.type("\x11")
    assert terminal.end() == 0
    assert terminal.restored


def test_left_while_it_writes_and_trains(open_terminal) -> None:  # type: ignore[no-untyped-def]
    terminal = train(open_terminal)
    terminal.type("4")
    terminal.wait_for("Enter sends")
    terminal.type("the cat\r")
    terminal.wait_for("tokens/s")
    for size in ((120, 40), (62, 17), (80, 24)):
        terminal.type("the dog\r")
        terminal.forget()
        terminal.resize(size)
        terminal.wait_for("context")  # the whole screen anew
    terminal.type("the dog\r\x11")
    terminal.wait_for("keep training, without the dashboard")
    terminal.type("s")
    assert terminal.end(60) == 0
    assert terminal.restored


def test_killed_while_it_writes_and_trains(open_terminal, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    terminal = train(open_terminal)
    terminal.type("4")
    terminal.wait_for("Enter sends")
    terminal.type("the cat\r")
    terminal.wait_for("Esc stops|tokens/s")
    terminal.process.send_signal(signal.SIGTERM)
    assert terminal.end(60) == 128 + signal.SIGTERM
    assert terminal.restored
    assert (tmp_path / "out.bin.run" / "last").is_file()


def test_a_run_goes_on_without_the_dashboard(open_terminal, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    terminal = train(open_terminal, "--max-steps", "3000")
    terminal.type("\x11")
    terminal.wait_for("keep training, without the dashboard")
    terminal.type("k")
    terminal.wait_for("Ctrl-C stops and saves")
    terminal.process.send_signal(signal.SIGINT)
    code = terminal.end()
    assert code in (0, 130)  # it may have come to its end meanwhile
    assert terminal.restored
    assert (tmp_path / "out.bin").is_file()


def test_without_a_terminal_it_says_so(tmp_path: Path) -> None:
    done = subprocess.run(
        [*DASHBOARD], capture_output=True, text=True, cwd=tmp_path, timeout=60,
        env={**os.environ, "PYTHONPATH": str(ROOT)}, stdin=subprocess.DEVNULL, check=False,
    )  # fmt: skip
    assert done.returncode == 2 and done.stderr == (
        "slim: error: the dashboard needs a terminal; `slim` does the same by commands\n"
    )


def test_it_is_not_drawn_into_a_file(tmp_path: Path) -> None:
    """Textual draws on stderr: where that leads elsewhere, a person would see nothing."""
    master, slave = os.openpty()
    try:
        done = subprocess.run(
            [*DASHBOARD], stdin=slave, stdout=slave, stderr=subprocess.PIPE, text=True, cwd=tmp_path, timeout=60,
            env={**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm-256color"}, check=False,
        )  # fmt: skip
    finally:
        os.close(master)
        os.close(slave)
    assert done.returncode == 2 and "the dashboard needs a terminal" in done.stderr


@pytest.mark.parametrize(
    ("paths", "words"),
    [
        (["no.bin"], "there is no such file"),
        (["."], "is a folder, but no run"),
        (["a.txt", "a.txt"], "only runs"),
    ],
)
def test_paths_are_checked_before_anything_is_drawn(
    tmp_path: Path, paths: list[str], words: str
) -> None:
    (tmp_path / "a.txt").write_text("text")
    done = subprocess.run(
        [*DASHBOARD, *paths], capture_output=True, text=True, cwd=tmp_path, timeout=60,
        env={**os.environ, "PYTHONPATH": str(ROOT)}, stdin=subprocess.DEVNULL, check=False,
    )  # fmt: skip
    assert done.returncode == 2 and words in done.stderr
