"""A pseudo-terminal of a given size with a program on it: what it writes, when, and whether it gives the terminal back."""

from __future__ import annotations

import fcntl
import itertools
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
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parents[2]
DASHBOARD = (
    sys.executable,
    "-c",
    "import sys; from slim.cli.dashboard import main; sys.exit(main())",
)
SLIM = (sys.executable, "-m", "slim")
ENTERED, LEFT = "\x1b[?1049h", "\x1b[?1049l"
_MOVES = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")


class Terminal:
    """A process on a terminal of its own. Whoever uses it has to read, or the process stands still."""

    def __init__(
        self,
        command: list[str],
        folder: Path,
        size: tuple[int, int] = (80, 24),
        more: Mapping[str, str] | None = None,
    ) -> None:
        """size: columns and lines   more: of the environment"""
        self.master, slave = pty.openpty()
        self.slave = slave
        self._set_size(size)
        self.modes = termios.tcgetattr(slave)
        environment = {
            **os.environ, "TERM": "xterm-256color", "LANG": "C.UTF-8", "PYTHONPATH": str(ROOT),
            "XDG_STATE_HOME": str(folder / "state"), "NUMBA_NUM_THREADS": "2", **(more or {}),
        }  # fmt: skip
        self.began = time.monotonic()
        self.process = subprocess.Popen(
            command, cwd=folder, env=environment, stdin=slave, stdout=slave, stderr=slave, start_new_session=True,
        )  # fmt: skip
        self.output = ""
        self._hung_up = False
        self._seen = 0  # characters of the output that were dealt with

    def _set_size(self, size: tuple[int, int]) -> None:
        columns, lines = size
        fcntl.ioctl(self.slave, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def resize(self, size: tuple[int, int]) -> None:
        """Another size, as when a window is dragged."""
        self._set_size(size)
        self.process.send_signal(signal.SIGWINCH)

    def read(self, seconds: float = 0.05) -> None:
        """What is there now, or comes within that time."""
        if select.select([self.master], [], [], seconds)[0]:
            self.output += os.read(self.master, 65_536).decode("utf-8", "replace")

    @property
    def fresh(self) -> str:
        """What was written since `forget`."""
        return self.output[self._seen :]

    @property
    def plain(self) -> str:
        """The same without the moves between."""
        return _MOVES.sub("", self.fresh)

    @property
    def told(self) -> str:
        """The same for the reader of a failed test: what is drawn over and over, such as a cursor, once."""
        drawn = (one.strip() for one in _MOVES.split(self.fresh))
        return "|".join(one for one, _ in itertools.groupby(filter(None, drawn)))[-12_000:]

    def forget(self) -> None:
        """What was written so far is dealt with."""
        while select.select([self.master], [], [], 0.0)[0]:
            self.read(0.0)
        self._seen = len(self.output)

    def wait_for(self, pattern: str, seconds: float = 240.0) -> None:
        """Read until a regular expression is found in what was written."""
        deadline = time.monotonic() + seconds
        while not re.search(pattern, self.plain):
            assert time.monotonic() < deadline, f"no {pattern!r} in {self.told}"
            assert self.process.poll() is None, f"ended: {self.told}"
            self.read()

    def type(self, text: str) -> None:
        """Press keys."""
        os.write(self.master, text.encode())

    def seconds_until(self, pattern: str, press: str = "", seconds: float = 60.0) -> float:
        """Press keys; how long until a pattern is found in what is written from then on."""
        self.forget()
        began = time.monotonic()
        self.type(press)
        while not re.search(pattern, self.plain):
            passed = time.monotonic() - began
            assert passed < seconds, f"no {pattern!r} in {self.told}"
            self.read(0.5)
        return time.monotonic() - began

    def end(self, seconds: float = 30.0) -> int:
        """Wait for the end of the process; its exit code."""
        deadline = time.monotonic() + seconds
        while self.process.poll() is None:
            assert time.monotonic() < deadline, f"still runs: {self.told}"
            self.read()
        for _ in range(20):
            self.read(0.02)
        return self.process.returncode

    @property
    def restored(self) -> bool:
        """Modes of the line as before, the usual screen, a cursor, no mouse."""

        def last_is(wanted: str, other: str) -> bool:
            return self.output.rfind(wanted) > self.output.rfind(other) >= 0

        return (
            termios.tcgetattr(self.slave) == self.modes
            and last_is(LEFT, ENTERED)
            and last_is("\x1b[?25h", "\x1b[?25l")
            and last_is("\x1b[?1000l", "\x1b[?1000h")
        )

    def hang_up(self) -> None:
        """Nobody is at the terminal any more, and no signal says so: it controls nothing."""
        os.close(self.master)
        os.close(self.slave)
        self._hung_up = True

    def close(self) -> None:
        """End everything."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        if not self._hung_up:
            self.hang_up()
