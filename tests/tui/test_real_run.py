"""A real engine that trains under the app: what is shown, how free the event loop stays, and that the run is the same."""

from __future__ import annotations

import asyncio
import json
import random
import statistics
import time
from pathlib import Path
from typing import Any

from textual.pilot import Pilot

from scripted import screen_text, until
from slim.compute import Engine
from slim.events import StepFinished
from slim.request import Request, RunControl
from slim.run import start
from slim.settings import Settings
from slim.tui.app import SlimApp
from slim.tui.session import LocalRun

WORDS = (
    "the", "a", "cat", "dog", "fox", "sat", "ran", "on", "to", "mat", "park", "after", "in", "rain", "old", "small",
    "red", "sea", "sees", "likes", "and", "then",
)  # fmt: skip
SMALL = {
    "dim": 64, "n_layers": 2, "n_heads": 2, "hidden_dim": 128, "max_seq_len": 16_384, "seq_len": 64, "batch_tokens": 512,
    "sample_tokens": 16, "sample_every": 40, "eval_every": 40, "calibrate": False, "seed": 3,
    "patience": 0,
}  # fmt: skip
LAG_SECONDS = 0.02  # between two looks at how late the loop is
MOST_LAG = 0.05  # in 95 of 100 looks
MOST_DRAWING = 0.1  # of a core: what a monitor takes that is drawn with every tick
WATCHED_SECONDS = 4.0


def request(folder: Path, name: str) -> Request:
    """Words in no order: a model of them neither comes to an end nor repeats itself."""
    words = random.Random(0).choices(WORDS, k=40_000)
    (folder / "notes.txt").write_text(" ".join(words))
    return Request("train", str(folder / "notes.txt"), 1e6, str(folder / name), settings=Settings(SMALL))


async def training(
    app: SlimApp, pilot: Pilot[Any], folder: Path, first: int = 5
) -> LocalRun:
    """Begin a run and watch it from its step number `first` on."""
    run = app.session.start(request(folder, "out.bin"))
    app.began(run)
    while run.view.state.step < first:  # kernels may have to be compiled first
        assert run.problem is None, run.problem
        await pilot.pause(0.05)
    return run


async def leave(app: SlimApp, pilot: Pilot[Any], run: LocalRun) -> None:
    run.control.stop = True
    await until(pilot, lambda: run.ended)
    assert run.problem is None


async def lags(seconds: float) -> list[float]:
    """How much later than it wanted a task of the event loop went on, many times."""
    found, ends = [], time.monotonic() + seconds
    while (began := time.monotonic()) < ends:
        await asyncio.sleep(LAG_SECONDS)
        found.append(time.monotonic() - began - LAG_SECONDS)
    return found


async def test_the_loop_is_free_and_little_is_drawn(tmp_path: Path, compute: Engine) -> None:
    app = SlimApp(compute=compute, folder=tmp_path)
    async with app.run_test(size=(80, 24)) as pilot:
        run = await training(app, pilot, tmp_path)
        first, drawn = run.view.state.step, time.thread_time()
        late = await lags(WATCHED_SECONDS)
        share = (time.thread_time() - drawn) / WATCHED_SECONDS
        assert run.view.state.step > first + 20, "it trains meanwhile"
        assert statistics.quantiles(late, n=20)[-1] < MOST_LAG
        assert share < MOST_DRAWING
        shown = screen_text(app)
        missing = [word for word in ("step", "left", "tokens/s", "after step") if word not in shown]
        assert not missing, shown
        await leave(app, pilot, run)


async def test_a_pause_is_one_and_keys_come_through(tmp_path: Path, compute: Engine) -> None:
    app = SlimApp(compute=compute, folder=tmp_path)
    async with app.run_test(size=(80, 24)) as pilot:
        run = await training(app, pilot, tmp_path)
        await pilot.press("space")
        await until(pilot, lambda: "paused" in screen_text(app))
        await pilot.pause(0.3)
        step = run.view.state.step
        await pilot.pause(0.5)
        assert run.view.state.step == step
        await pilot.press("space")
        await until(pilot, lambda: run.view.state.step > step + 3)
        saved = run.view.state.saved
        await pilot.press("s")
        await until(pilot, lambda: run.view.state.saved not in (None, saved))
        assert (tmp_path / "out.bin.run" / "last").is_file()
        await pilot.press("x")
        await until(pilot, lambda: run.ended)
        assert "goes on where it stopped" in screen_text(app)
        await leave(app, pilot, run)


async def test_a_reply_of_the_model_in_training_while_the_terminal_changes(
    tmp_path: Path, compute: Engine
) -> None:
    """Training stands still for the length of a reply and goes on after it; sizes change meanwhile."""
    app = SlimApp(compute=compute, folder=tmp_path)
    async with app.run_test(size=(80, 24)) as pilot:
        run = await training(app, pilot, tmp_path, first=120)  # it has learnt that no text ends
        app.action_page("chat")
        await until(pilot, lambda: "Enter sends" in screen_text(app))
        screen: Any = app.screen
        screen.query_one("#max_tokens").value = "15000"
        screen.prompt.text = "the cat sees the dog and the fox ran to the sea"
        await pilot.press("enter")
        await until(pilot, lambda: run.job.held and len(list(screen.text.flow.tokens)) > 4)
        step = run.view.state.step
        for size in ((120, 40), (62, 17), (80, 24)):
            await pilot.resize_terminal(*size)  # waits for a second: the engine is never idle
            # Its words follow the width with the next look at the reply.
            await until(pilot, lambda: screen.writing is None or "training waits" in screen_text(app))
        assert screen.writing is not None, screen_text(app)
        assert run.view.state.step <= step + 1, "the step that was begun, and no other"
        late = await lags(1.0)
        assert statistics.median(late) < MOST_LAG
        await pilot.press("escape")
        await until(pilot, lambda: screen.writing is None)
        await until(pilot, lambda: run.view.state.step > step + 3)
        await leave(app, pilot, run)


async def test_the_run_is_the_same_as_without_a_dashboard(tmp_path: Path, compute: Engine) -> None:
    count = 45  # with an evaluation and a sample among them
    app = SlimApp(compute=compute, folder=tmp_path)
    async with app.run_test(size=(80, 24)) as pilot:
        run = await training(app, pilot, tmp_path)
        await until(pilot, lambda: run.view.state.step >= count)
        await leave(app, pilot, run)
    shown = [value for step, value in losses(tmp_path / "out.bin.run") if step <= count]
    alone = Engine()
    control = RunControl()
    plain: list[float] = []
    for event in alone.stream(start(request(tmp_path, "alone.bin"), control)):
        if isinstance(event, StepFinished):
            plain.append(event.loss)
            control.stop = event.step >= count
    alone.shut_down()
    assert len(shown) == count and shown == plain[:count]


def losses(directory: Path) -> list[tuple[int, float]]:
    """Steps and losses as the journal of a run has them."""
    records = map(json.loads, (directory / "metrics.jsonl").read_text().splitlines())
    return [(r["step"], r["loss"]) for r in records if r["event"] == "step_finished"]
