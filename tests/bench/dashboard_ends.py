"""From the start of the dashboard to its first screen, and from what ends it to a terminal that is as before.

    python tests/bench/dashboard_ends.py [--times 5]

In a pseudo-terminal of 80x24; ends are measured while a run trains, from the key or the signal to the modes of the line
and the usual screen being back. The run is saved after that. An exception is one of our own making, in the tick of the
event loop. The last line is JSON, medians and the longest in seconds.
"""

from __future__ import annotations

import argparse
import json
import signal
import statistics
import sys
import tempfile
import termios
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tui"))

from terminal import DASHBOARD, LEFT, SLIM, Terminal

TEXT = "The cat sat on the mat. The dog ran to the park and the cat ran after it.\n" * 120
TINY = (
    *("--seq-len", "32", "--batch-tokens", "64", "--set", "sample_tokens=8", "--set", "dim=32"),
    *("--set", "n_layers=1", "--set", "n_heads=2", "--set", "hidden_dim=32"),
)
FAILING = """
import os, sys
from slim.cli import main
from slim.tui.app import SlimApp
tick = SlimApp._tick
def fails(app):
    if os.path.exists("fail"):
        raise RuntimeError("a bug")
    tick(app)
SlimApp._tick = fails
sys.exit(main())
"""


def first_screen() -> float:
    """Seconds to an empty home."""
    with tempfile.TemporaryDirectory() as scratch:
        terminal = Terminal([*DASHBOARD], Path(scratch))
        try:
            terminal.wait_for("helps")
            return time.monotonic() - terminal.began
        finally:
            terminal.close()


def end(how: str) -> float:
    """Seconds until the terminal is given back."""
    with tempfile.TemporaryDirectory() as scratch:
        (Path(scratch) / "notes.txt").write_text(TEXT)
        program = [sys.executable, "-c", FAILING] if how == "exception" else [*SLIM]
        command = [*program, "train", "notes.txt", "100000", "out.bin", "--tui", *TINY]
        terminal = Terminal(command, Path(scratch))
        try:
            terminal.wait_for(r"step [1-9]")
            if how == "ctrl+q":
                terminal.seconds_until("without the dashboard", "\x11")
            terminal.forget()
            began = time.monotonic()
            if how == "ctrl+q":
                terminal.type("s")
            elif how == "exception":
                (Path(scratch) / "fail").touch()
            else:
                terminal.process.send_signal(getattr(signal, how))
            while LEFT not in terminal.fresh or not same(terminal):
                assert time.monotonic() - began < 30.0, terminal.output[-1000:]
                terminal.read(0.01)
            passed = time.monotonic() - began
            terminal.end(60.0)
            assert terminal.restored
            return passed
        finally:
            terminal.close()


def same(terminal: Terminal) -> bool:
    """Whether the modes of the line are what they were."""
    return termios.tcgetattr(terminal.slave) == terminal.modes


def main() -> None:
    """Measure, print, and as the last line JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--times", type=int, default=5)
    times = parser.parse_args().times
    found: dict[str, list[float]] = {"first screen": [first_screen() for _ in range(times + 1)][1:]}
    for how in ("ctrl+q", "SIGINT", "SIGTERM", "SIGHUP", "exception"):
        found[how] = [end(how) for _ in range(times)]
        print(how, [round(value, 3) for value in found[how]], flush=True)
    print(
        json.dumps(
            {
                name: {
                    "median": round(statistics.median(values), 3),
                    "longest": round(max(values), 3),
                }
                for name, values in found.items()
            }
        )
    )


if __name__ == "__main__":
    main()
