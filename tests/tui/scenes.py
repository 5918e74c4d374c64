"""Every screen in every state, made up: what the snapshots and the tests of colours look at."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from textual.pilot import Pilot

from made_runs import TOTAL, run_events, write_run
from scripted import Script, finish, screen_text, scripted_model, token, until
from slim.compute import Engine
from slim.errors import DivergedError
from slim.events import Event, Progress, TrainFinished
from slim.request import RunControl
from slim.tui.app import SlimApp
from slim.tui.estimate import Budget, Estimate
from slim.tui.session import LocalRun
from slim.tui.writing_screen import measures

STORY = (
    (" fox", 0.9), (" who", 0.55), (" lived", 0.3), (" by", 0.1), (" the", 0.85), (" sea", 0.04), (".", 0.7),
    (" Every", 0.02), (" day", 0.95), (" it", 0.4), (" went", 0.25), (" to", 0.97), (" look", 0.08), (" at", 0.6),
    (" the", 0.9), (" boats", 0.03), (",", 0.5), (" and", 0.8), (" the", 0.35), (" boats", 0.15), (" looked", 0.2),
    (" back", 0.3), (".", 0.96), ("\n", 0.5), ("One", 0.22), (" evening", 0.06), (" a", 0.5), (" lamp", 0.01),
    (" stood", 0.07), (" in", 0.4), (" the", 0.9), (" window", 0.3), (".", 0.8),
)  # fmt: skip
OTHERS = ((" cat", 0.05), (" dog", 0.03), (" girl", 0.02))


@dataclasses.dataclass(frozen=True)
class Stage:
    """Where a scene is set up."""

    folder: Path
    compute: Engine
    patch: pytest.MonkeyPatch

    def app(self, *paths: str, run: LocalRun | None = None) -> SlimApp:
        return SlimApp([Path(path) for path in paths], run, self.compute, Path("."))

    def training(self, steps: int, *ends: Event | Exception) -> LocalRun:
        """A run in this process that has come so far, and goes on or ends."""
        control = RunControl()

        def events() -> Iterator[Event]:
            yield from run_events(steps, finished=False)
            for end in ends:
                if isinstance(end, Exception):
                    raise end
                yield end

            while not ends:  # it goes on, and has nothing new to tell
                time.sleep(0.002)
                yield Progress("waiting", 1, 1)

        return LocalRun(self.compute.submit(events()), control, "stories.bin")


Act = Callable[[SlimApp, Pilot[Any]], Awaitable[None]]
Build = Callable[[Stage], tuple[SlimApp, Act]]
SCENES: dict[str, Build] = {}


def scene(build: Build) -> Build:
    SCENES[build.__name__.replace("_", "-")] = build
    return build


def shows(*words: str, keys: tuple[str, ...] = ()) -> Act:
    """Press keys and wait until all words are on the screen."""

    async def act(app: SlimApp, pilot: Pilot[Any]) -> None:
        for key in keys:
            await pilot.press(key)
            await pilot.pause()
        await until(pilot, lambda: all(word in screen_text(app) for word in words))

    return act


def then(*acts: Act) -> Act:
    async def act(app: SlimApp, pilot: Pilot[Any]) -> None:
        for one in acts:
            await one(app, pilot)

    return act


# ---- home ----------------------------------------------------------------------------------------------------------


@scene
def home_empty(stage: Stage) -> tuple[SlimApp, Act]:
    return stage.app(), shows("No models yet", "helps")


@scene
def home(stage: Stage) -> tuple[SlimApp, Act]:
    finished = write_run(Path("stories.bin"), run_events())
    (finished / "result.json").write_text("{}")
    write_run(Path("letters-of-a-sailor.bin"), run_events(15, finished=False))
    live = write_run(Path("night.bin"), run_events(27, finished=False))
    (live / "lock").write_text(f"{os.getpid()}\n")
    Path("broken.bin").write_bytes(b"\x08\0\0\0\0\0\0\0{broken!")
    stage.patch.setattr("slim.tui.home.age", lambda seconds: "2 d")
    return stage.app(), shows("night.bin", "broken.bin", "watches it learn")


@scene
def open_dialog(stage: Stage) -> tuple[SlimApp, Act]:
    return stage.app(), then(shows("No models yet"), shows("Open", keys=("o", "n", "o")))


# ---- training ------------------------------------------------------------------------------------------------------


@scene
def form(stage: Stage) -> tuple[SlimApp, Act]:
    Path("notes.txt").write_text("some text " * 5000)
    fast, slow = Budget(600.0, 4_812, 27.3), Budget(600.0, 1_880, 9.7)
    found = Estimate(6_400_000, 310_000_000, 2_000_000_000, 448, fast, slow, measured=False, compile_seconds=0.0)
    stage.patch.setattr("slim.tui.train_form.estimating", lambda request: iter([found]))
    return stage.app("notes.txt"), shows("notes.bin", "parameters, a vocabulary of")


@scene
def monitor_before_the_first_step(stage: Stage) -> tuple[SlimApp, Act]:
    return stage.app(run=stage.training(0)), shows("The loss appears here", "zzz qqq")


@scene
def monitor(stage: Stage) -> tuple[SlimApp, Act]:
    return stage.app(run=stage.training(30)), shows("step 30/40", "a story of step 20")


@scene
def monitor_crosshair(stage: Stage) -> tuple[SlimApp, Act]:
    keys = ("y", "plus", "left", "left", "left", "left")
    return stage.app(run=stage.training(30)), then(
        shows("step 30/40", "a story of step 20"), shows("log  zoomed", keys=keys)
    )


@scene
def monitor_finished(stage: Stage) -> tuple[SlimApp, Act]:
    end = TrainFinished("finished", TOTAL, 2.0, 1.5, TOTAL, TOTAL * 0.5)
    return stage.app(run=stage.training(TOTAL, end)), shows("trains another")


@scene
def monitor_diverged(stage: Stage) -> tuple[SlimApp, Act]:
    problem = DivergedError("the loss is not a number any more after step 30, twice over")
    return stage.app(run=stage.training(30, problem)), shows("begins anew")


@scene
def monitor_of_a_run_that_ended_without_a_word(stage: Stage) -> tuple[SlimApp, Act]:
    folder = write_run(Path("night.bin"), run_events(30, finished=False))
    for name in ("last", "best"):
        (folder / name).write_text("saved")
    return stage.app("night.bin.run"), shows("No process trains this run now")


@scene
def monitor_of_two_runs(stage: Stage) -> tuple[SlimApp, Act]:
    write_run(Path("first.bin"), run_events())
    write_run(Path("second.bin"), run_events(22, finished=False))
    return stage.app("first.bin.run", "second.bin.run"), shows("first.bin 1.600", "second.bin")


@scene
def leaving(stage: Stage) -> tuple[SlimApp, Act]:
    _, act = monitor(stage)
    return stage.app(run=stage.training(30)), then(
        act, shows("keep training, without the dashboard", keys=("ctrl+q",))
    )


@scene
def help_on_the_monitor(stage: Stage) -> tuple[SlimApp, Act]:
    _, act = monitor(stage)
    return stage.app(run=stage.training(30)), then(act, shows("Here", keys=("question_mark",)))


# ---- writing -------------------------------------------------------------------------------------------------------


def writer(stage: Stage, name: str = "stories.bin") -> SlimApp:
    """A dashboard whose model writes the story."""
    events = [token(text, p, index, ((text, p), *OTHERS)) for index, (text, p) in enumerate(STORY)]
    stage.patch.setattr("slim.generate.generate", Script(*events, finish("length")))
    app = stage.app()
    app.session.opened = scripted_model(name)
    return app


@scene
def generate_without_a_model(stage: Stage) -> tuple[SlimApp, Act]:
    return stage.app(), shows("no model is open", keys=("3",))


@scene
def generate(stage: Stage) -> tuple[SlimApp, Act]:
    return writer(stage), then(
        shows("the beginning of a text", keys=("3",)),
        shows("as many tokens as asked for", keys=(*"There was a", "enter")),
    )


@scene
def generate_inspector(stage: Stage) -> tuple[SlimApp, Act]:
    app, act = generate(stage)
    return app, then(act, shows("token 8", "cat", keys=("escape", "n", "n")))


@scene
def chat_without_a_model(stage: Stage) -> tuple[SlimApp, Act]:
    return stage.app(), shows("no model is open", keys=("4",))


@scene
def chat(stage: Stage) -> tuple[SlimApp, Act]:
    from test_chat_screen import chatting

    _, model = chatting(stage.patch, "Good morning, and what a day it is.", "A fox, I think.")
    app = stage.app()
    app.session.opened = model
    stage.patch.setattr(
        "slim.tui.chat_screen.measures", lambda logprobs, speed: measures(logprobs, 321.0)
    )
    return app, then(
        shows("Enter sends", keys=("4",)),
        shows("what a day it is.", "321 tokens/s", keys=(*"Hello", "enter")),
    )


@scene
def palette(stage: Stage) -> tuple[SlimApp, Act]:
    return stage.app(), then(
        shows("No models yet"), shows("Search for commands", "key: 4", keys=("ctrl+p",))
    )


# ---- setting one up ------------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def staged(
    name: str, size: tuple[int, int], folder: Path, compute: Engine, patch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[SlimApp, Pilot[Any]]]:
    """A scene as it is once nothing moves any more, in an empty folder; nothing in it tells time or place."""
    patch.chdir(folder)
    patch.setattr("slim.tui.train_screen.memory_of", lambda process: None)
    app, act = SCENES[name](Stage(folder, compute, patch))
    async with app.run_test(size=size) as pilot:
        await act(app, pilot)
        seen = [screen_text(app)]
        # The chart is drawn once a second, so what stands still for longer has come to an end.
        while len(seen) < 100 and seen[-6:] != seen[-1:] * 6:
            await asyncio.sleep(0.3)
            seen.append(screen_text(app))
        yield app, pilot
