"""What drawing takes: the loss chart at any length of a run, a long text that grows or is broken anew, memory of a long run.

    python tests/bench/dashboard_drawing.py [--steps 100000] [--samples 1000]

Milliseconds, medians of 30; memory in MB after a fifth of the steps and at the end, with the monitor open and drawing.
Nothing is trained. The last line is JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import itertools
import json
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tui"))

from made_runs import sample_events, started, stepped, token
from slim.tui.token_flow import Piece, TokenFlow

SIZES = ((80, 24), (160, 50))
TOKENS = (1_000, 7_000, 20_000)


def median_ms(work: Callable[[], object], times: int = 30) -> float:
    """How long a piece of work takes."""
    taken = []
    for _ in range(times):
        began = time.perf_counter()
        work()
        taken.append(time.perf_counter() - began)
    return round(1e3 * statistics.median(taken), 2)


def resident_mb() -> float:
    """What this process holds."""
    import os

    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return round(pages * os.sysconf("SC_PAGE_SIZE") / 1e6, 1)


async def monitor(steps: int, samples: int) -> dict[str, Any]:
    """A run of so many steps and samples under the monitor, as fast as it is taken in."""
    from slim.compute import Engine
    from slim.request import RunControl
    from slim.tui.app import SlimApp
    from slim.tui.loss_chart import LossChart
    from slim.tui.session import LocalRun

    found: dict[str, Any] = {"memory": {}, "chart": {}}
    compute = Engine()
    run = LocalRun(compute.submit(iter([started(0, steps)])), RunControl(), "x.bin")
    with tempfile.TemporaryDirectory() as scratch:
        app = SlimApp(run=run, compute=compute, folder=Path(scratch))
        async with app.run_test(size=SIZES[0]) as pilot:
            await pilot.pause(1.5)
            story = "once there was a fox who lived by the sea and looked at the boats " * 5
            for step in range(1, steps + 1):
                run.view.add(stepped(step, 3.0 + math.sin(step / 700) + (step * 7919 % 13) / 26))
                if step % (steps // samples) == 0:
                    run.view.add_all(sample_events(step, story))
                if step % 500 == 0:
                    await pilot.pause(0.01)
                if step in (steps // 5, steps):
                    await pilot.pause(1.5)
                    found["memory"][f"{step:,} steps"] = resident_mb()
            app.action_page("train")
            for width, height in SIZES:
                await pilot.resize_terminal(width, height)
                await pilot.pause(0.5)
                chart = app.screen.query_one(LossChart)
                size = f"{chart.size.width}x{chart.size.height}"
                found["chart"][size] = median_ms(chart._draw)
        compute.shut_down()
    return found


def texts() -> dict[str, dict[str, float]]:
    """A text of so many tokens: ten more at its end, and all of it at another width."""
    words = [
        "once",
        "there",
        "was",
        "a",
        "fox",
        "who",
        "lived",
        "by",
        "the",
        "sea",
        ",",
        "and",
        "looked",
        "at",
        "boats",
        ".",
    ]

    def pieces(count: int) -> list[Piece]:
        drawn = (token(number, f" {words[number % len(words)]}") for number in range(count))
        return [Piece(one.text, "token", one) for one in drawn]

    found: dict[str, dict[str, float]] = {"ten more": {}, "another width": {}}
    for count in TOKENS:
        flow = TokenFlow(74)
        flow.append(pieces(count))
        widths = itertools.cycle((60, 74, 90))
        found["another width"][f"{count:,}"] = median_ms(partial(other_width, flow, widths), 9)
        found["ten more"][f"{count:,}"] = median_ms(partial(ten_more, flow, pieces))
    return found


def other_width(flow: TokenFlow, widths: Iterator[int]) -> None:
    flow.layout(next(widths))


def ten_more(flow: TokenFlow, pieces: Callable[[int], list[Piece]]) -> None:
    flow.append(pieces(10))


def main() -> None:
    """Measure, and print it as JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--samples", type=int, default=1_000)
    arguments = parser.parse_args()
    found = asyncio.run(monitor(arguments.steps, arguments.samples))
    print(json.dumps({**found, "text": texts()}))


if __name__ == "__main__":
    main()
