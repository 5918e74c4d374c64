"""How fast the dashboard answers while it trains: lag of its event loop, keys, a pause, chat during training.

    python tests/bench/dashboard_response.py [--size 80x24] [--seconds 20] [--preset default]

The dashboard runs in a pseudo-terminal and trains the stories that ship with SLiM, and keys are typed into it. A task
of its event loop sleeps for LAG_SECONDS over and over: what a sleep takes longer is the lag. The engine thread notes the
time before and after everything that a job does. The last line is JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import functools
import json
import os
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tui"))

from terminal import Terminal

LAG_SECONDS = 0.005
PROMPTS = ("Once upon a time there was a fox", "Then the rain came", "And in the morning")
# Keys that lead to another screen, and what is to be seen there; typed in this order, from Train and back to it.
ESCAPE, F1, F3, F5 = "\x1b", "\x1bOP", "\x1bOR", "\x1b[15~"
TOUR = (
    ("1", "Train and run small"), ("3", "Enter writes on"), (F1, "Here"), (ESCAPE, "Enter writes on"),
    (F5, "Enter sends"), (F3, "gradient"), ("?", "Here"), (ESCAPE, "gradient"),
)  # fmt: skip
REPLIES = 8
ENDED = "to its end|context is full"


# ---- inside ------------------------------------------------------------------------------------------------------


def child(preset: str, out: str) -> None:
    """The dashboard, with a run that has begun; what was measured goes to `out`.json when it is left."""
    from slim.tui import ESCAPE_DELAY

    os.environ.setdefault("ESCDELAY", ESCAPE_DELAY)  # as the program does, before Textual is imported
    from slim.compute import Engine
    from slim.demo_text import STORIES, demo_text
    from slim.request import Request
    from slim.settings import Settings
    from slim.tui import sampler_settings
    from slim.tui.app import SlimApp

    work: list[tuple[str, float, float]] = []  # what came of it, begin, end
    lags: dict[str, list[float]] = {}
    marks: list[tuple[str, float]] = []

    class Noting(Engine):
        def submit(self, events: Iterator[Any]) -> Any:
            return super().submit(noting(events))

    def noting(events: Iterator[Any]) -> Iterator[Any]:
        try:
            while True:
                began = time.monotonic()
                try:
                    event = next(events)
                except StopIteration:
                    return
                kind = type(event).__name__
                if kind == "TokenGenerated" and event.sample < 0:
                    kind = "reply"
                work.append((kind, began, time.monotonic()))
                yield event
        finally:
            events.close()  # type: ignore[attr-defined]

    class Watched(SlimApp):
        def on_mount(self) -> None:  # that of SlimApp is called by Textual
            self.sampling = asyncio.get_running_loop().create_task(self.sample())

        async def sample(self) -> None:
            while True:
                began = time.perf_counter()
                await asyncio.sleep(LAG_SECONDS)
                lag = time.perf_counter() - began - LAG_SECONDS
                lags.setdefault(self.phase(), []).append(lag)

        def phase(self) -> str:
            run = self.session.run
            if run is None or run.view.state.step < 5:
                return "before the fifth step"
            if getattr(self.screen, "writing", None) is not None:
                return "chatting, training waits"
            return "paused" if run.paused else "training"

    app = Watched(compute=Noting())
    values = {
        "preset": preset, "vocab_size": 2048, "sample_tokens": 60, "sample_every": 50,
        # A context that no reply fills before it is stopped, and training sequences of the usual length.
        "max_seq_len": 8192, "seq_len": 512,
    }  # fmt: skip
    data = f"{out}.txt"  # one document, so that no reply comes to an end before it is stopped
    Path(data).write_text(demo_text(STORIES).read_text("utf-8").replace("<|endoftext|>", ""), "utf-8")
    LONG = dataclasses.replace(sampler_settings.DEFAULT, max_tokens=5_000, repeat_penalty=1.0)
    sampler_settings.DEFAULT = LONG  # long replies: what is measured comes in their middle
    run = app.session.start(Request("pretrain", data, 100.0, out, settings=Settings(values)))

    def noted(name: str, act: Callable[[], None]) -> None:
        marks.append((name, time.monotonic()))
        act()

    for name in ("pause", "hold"):  # by a person, by a reply
        setattr(run.job, name, functools.partial(noted, name, getattr(run.job, name)))
    app.run()
    run.control.stop = True
    run.job.resume()
    for _ in run.job:
        pass
    Path(f"{out}.json").write_text(json.dumps({"work": work, "lags": lags, "marks": marks}))


# ---- outside -----------------------------------------------------------------------------------------------------


def drive(terminal: Terminal, seconds: float) -> dict[str, list[float]]:
    """Train, go about, pause, chat and leave; seconds from each key to what it does."""
    keys: dict[str, list[float]] = {"another screen": [], "pause is shown": [], "a reply stops": []}

    def watch(duration: float) -> None:
        until = time.monotonic() + duration
        while time.monotonic() < until:
            terminal.read(0.05)

    terminal.wait_for(r"step [1-9]\d?/")
    watch(seconds)
    for _ in range(3):
        for key, words in TOUR:
            keys["another screen"].append(terminal.seconds_until(words, key))
            watch(0.5)
    for _ in range(5):
        keys["pause is shown"].append(terminal.seconds_until("paused", " "))
        watch(0.7)
        terminal.type(" ")
        watch(1.0)
    terminal.seconds_until("Enter sends", "4")
    for number in range(REPLIES):
        terminal.type(PROMPTS[number % len(PROMPTS)])
        terminal.seconds_until("Esc stops", "\r")
        watch(0.3)
        if not re.search(ENDED, terminal.plain):
            passed = terminal.seconds_until(f"interrupted|{ENDED}", ESCAPE)
            if "interrupted" in terminal.plain:  # it did not end by itself just then
                keys["a reply stops"].append(passed)
        watch(1.5)
    terminal.seconds_until("gradient", F3)
    watch(1.0)
    terminal.seconds_until("without the dashboard", "\x11")
    terminal.type("s")
    terminal.end(90.0)
    return keys


def summary(measured: dict[str, Any], keys: dict[str, list[float]]) -> dict[str, Any]:
    """What the bars speak of; times in ms."""
    work, marks = measured["work"], measured["marks"]
    steps = [(begin, end) for kind, begin, end in work if kind == "StepFinished"]
    typical = statistics.median(end - begin for begin, end in steps)
    pauses = [at for _, at in marks]
    after_pause, first_tokens, lost, own = [], [], 0.0, 0.0
    for number, at in enumerate(pauses):
        until = pauses[number + 1] if number + 1 < len(pauses) else float("inf")
        replies = [(b, e) for kind, b, e in work if kind == "reply" and at < b < until]
        begun = replies[-1][1] if replies else at + 0.5
        after_pause.append(sum(at < end < begun for _, end in steps))
        if not replies:
            continue
        first_tokens.append(replies[0][1] - at)
        before = max((end for _, end in steps if end < replies[0][0]), default=at)
        again = min((begin for begin, _ in steps if begin > replies[-1][1]), default=None)
        if again is not None:
            own += sum(
                e - b for kind, b, e in work if before <= b < again and kind != "StepFinished"
            )
            lost += again - before
    found: dict[str, Any] = {
        "step": round(1e3 * typical, 1),
        "lag": {
            phase: {"p50": quantile(lags, 0.5), "p95": quantile(lags, 0.95), "max": quantile(lags, 1.0), "n": len(lags)}
            for phase, lags in measured["lags"].items()
        },
        "keys": {name: {"p50": quantile(times, 0.5), "max": quantile(times, 1.0)} for name, times in keys.items()},
        "steps that end after a pause": max(after_pause, default=0),
        "first token": {"p50": quantile(first_tokens, 0.5), "max": quantile(first_tokens, 1.0)},
        "first token in steps": round(max(first_tokens, default=0.0) / typical, 2),
        "training stood still": round(1e3 * lost, 1),
        "of which the replies computed": round(1e3 * own, 1),
    }  # fmt: skip
    return found


def quantile(values: list[float], share: float) -> float:
    """A quantile, in ms."""
    ordered = sorted(values)
    return (
        round(1e3 * ordered[min(int(share * len(ordered)), len(ordered) - 1)], 2)
        if ordered
        else 0.0
    )


def main() -> None:
    """Measure, and print it as JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--size", default="80x24", help="columns x lines")
    parser.add_argument("--seconds", type=float, default=20.0, help="of mere training")
    parser.add_argument("--preset", default="default")
    parser.add_argument("--child", metavar="OUT", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        child(arguments.preset, arguments.child)
        return
    columns, lines = map(int, arguments.size.split("x"))
    with tempfile.TemporaryDirectory() as scratch:
        command = [sys.executable, __file__, "--child", "m.bin", "--preset", arguments.preset]
        terminal = Terminal(command, Path(scratch), (columns, lines))
        try:
            keys = drive(terminal, arguments.seconds)
            measured = json.loads((Path(scratch) / "m.bin.json").read_text())
        finally:
            terminal.close()
    found = {"size": arguments.size, "preset": arguments.preset, **summary(measured, keys)}
    print(json.dumps(found, indent=1))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
