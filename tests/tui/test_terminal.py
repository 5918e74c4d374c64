"""The dashboard as a process of its own, in a pseudo-terminal: it trains for real, is left and killed, and gives it back."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROGRAM = "import sys; from slim.cli.dashboard import main; sys.exit(main())"
TEXT = "The cat sat on the mat. The dog ran to the park and the cat ran after it.\n" * 120
TINY = ("--set", "dim=32", "--set", "n_layers=1", "--set", "n_heads=2", "--set", "hidden_dim=32")
SHORT = ("--seq-len", "32", "--batch-tokens", "64", "--set", "sample_tokens=8")
ENTERED, LEFT = "\x1b[?1049h", "\x1b[?1049l"


class Terminal:
    """A process on a terminal of its own, 80x24."""

    def __init__(self, command: list[str], folder: Path) -> None:
        self.master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        self.modes = termios.tcgetattr(slave)
        self.slave = slave
        environment = {
            **os.environ, "TERM": "xterm-256color", "LANG": "C.UTF-8", "PYTHONPATH": str(ROOT),
            "XDG_STATE_HOME": str(folder / "state"), "NUMBA_NUM_THREADS": "2",
        }  # fmt: skip
        self.process = subprocess.Popen(
            command, cwd=folder, env=environment, stdin=slave, stdout=slave, stderr=slave, start_new_session=True,
        )  # fmt: skip
        self.output = ""

    def read(self, seconds: float = 0.05) -> None:
        if select.select([self.master], [], [], seconds)[0]:
            self.output += os.read(self.master, 65_536).decode("utf-8", "replace")

    @property
    def plain(self) -> str:
        """What was written, without the moves between."""
        return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", self.output)

    def wait_for(self, pattern: str, seconds: float = 240.0) -> None:
        deadline = time.monotonic() + seconds
        while not re.search(pattern, self.plain):
            assert time.monotonic() < deadline, f"no {pattern!r} in {self.plain[-3000:]!r}"
            assert self.process.poll() is None, f"ended: {self.plain[-3000:]!r}"
            self.read()

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())

    def end(self, seconds: float = 30.0) -> int:
        deadline = time.monotonic() + seconds
        while self.process.poll() is None:
            assert time.monotonic() < deadline, f"still runs: {self.plain[-2000:]!r}"
            self.read()
        for _ in range(20):
            self.read(0.02)
        return self.process.returncode

    def check_restored(self) -> None:
        """Modes of the line as before, the usual screen, a cursor, no mouse."""
        assert termios.tcgetattr(self.slave) == self.modes
        assert self.output.rfind(LEFT) > self.output.rfind(ENTERED) >= 0
        assert self.output.rfind("\x1b[?25h") > self.output.rfind("\x1b[?25l")
        assert self.output.rfind("\x1b[?1000l") > self.output.rfind("\x1b[?1000h")

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self.master)
        os.close(self.slave)


@pytest.fixture
def open_terminal(tmp_path: Path) -> Iterator[object]:
    opened: list[Terminal] = []

    def start(*arguments: str) -> Terminal:
        (tmp_path / "notes.txt").write_text(TEXT)
        command = (
            [sys.executable, "-c", PROGRAM]
            if not arguments
            else [sys.executable, "-m", "slim", *arguments]
        )
        opened.append(Terminal(command, tmp_path))
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
    fcntl.ioctl(terminal.slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
    terminal.process.send_signal(signal.SIGWINCH)
    terminal.type("?")
    terminal.wait_for("Everywhere")
    terminal.type("\x1b")
    time.sleep(0.3)
    terminal.type("\x11")
    assert terminal.end() == 0
    terminal.check_restored()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_killed_while_it_trains_it_saves_and_gives_the_terminal_back(  # type: ignore[no-untyped-def]
    open_terminal, tmp_path: Path, number: signal.Signals
) -> None:
    terminal = train(open_terminal)
    terminal.process.send_signal(number)
    assert terminal.end() == 128 + number
    terminal.check_restored()
    assert (
        "stopped after step" in terminal.plain
        and "go on with: slim resume out.bin" in terminal.plain
    )
    assert (tmp_path / "out.bin.run" / "last").is_file() and (tmp_path / "out.bin").is_file()


def test_saved_and_stopped_by_key(open_terminal, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    terminal = train(open_terminal)
    terminal.type("\x11")
    terminal.wait_for("keep training, without the dashboard")
    terminal.type("s")
    assert terminal.end() == 0
    terminal.check_restored()
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
    terminal.check_restored()
    assert (tmp_path / "out.bin").is_file()


def test_without_a_terminal_it_says_so(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, cwd=tmp_path, timeout=60,
        env={**os.environ, "PYTHONPATH": str(ROOT)}, stdin=subprocess.DEVNULL, check=False,
    )  # fmt: skip
    assert done.returncode == 2 and done.stderr == (
        "slim: error: the dashboard needs a terminal; `slim` does the same by commands\n"
    )


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
        [sys.executable, "-c", PROGRAM, *paths], capture_output=True, text=True, cwd=tmp_path, timeout=60,
        env={**os.environ, "PYTHONPATH": str(ROOT)}, stdin=subprocess.DEVNULL, check=False,
    )  # fmt: skip
    assert done.returncode == 2 and words in done.stderr
