"""The dashboard under a pilot: every screen empty, full and failed; every key; hostile names; how it is left."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from textual import events
from textual.pilot import Pilot
from textual.widgets import ContentSwitcher, Input, Select, Static

from made_runs import TOTAL, run_events, sample_events, started, stepped, token, write_run
from slim import demo_recipe
from slim.compute import Engine
from slim.errors import DivergedError, SaveError, SlimError, UsageError
from slim.events import (
    Event,
    Progress,
    RunStarted,
    SampleFinished,
    SampleStarted,
    TrainFinished,
)
from slim.request import Request, RunControl
from slim.safe_text import safe_text
from slim.tui import ordered_keys
from slim.tui.app import Outcome, SlimApp
from slim.tui.chat_screen import ChatScreen
from slim.tui.dialogs import OpenDialog, QuitDialog, TooSmall
from slim.tui.help import HelpScreen, described_keys
from slim.tui.home import HomeScreen, age, millions, shortened
from slim.tui.run_follower import EVENTS_PER_POLL
from slim.tui.session import LocalRun
from slim.tui.train_form import TrainForm, times
from slim.tui.train_screen import TrainScreen, bar

SIZE = (80, 24)


def shown(app: SlimApp) -> str:
    """The screen as text."""
    return "\n".join(strip.text for strip in app.screen._compositor.render_strips())


async def wait_for(
    pilot: Pilot[Any], condition: Callable[[], object], seconds: float = 10.0
) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, shown(pilot.app)  # type: ignore[arg-type]
        await asyncio.sleep(0.01)


class Script:
    """A run whose events come when the test lets them."""

    def __init__(self, events: list[Event], error: BaseException | None = None) -> None:
        self.events, self.error = list(events), error
        self.control: RunControl = RunControl()
        self.allowed = len(events)
        self.saved = 0

    def __call__(self) -> Iterator[Event]:
        done = 0
        while True:
            if self.control.save_now:
                self.control.save_now = False
                self.saved += 1
            if self.control.stop:
                yield TrainFinished("interrupted", done, None, None, None, 1.0)
                return
            if done < min(self.allowed, len(self.events)):
                yield self.events[done]
                done += 1
            elif done >= len(self.events) and self.error is not None:
                raise self.error
            elif done >= len(self.events) and isinstance(self.events[-1], TrainFinished):
                return
            else:
                time.sleep(0.002)
                last = self.events[-1] if self.events else None
                yield last if isinstance(last, Progress) else Progress("waiting", 1, 1)

    def run(self, compute: Engine, out: str = "x.bin") -> LocalRun:
        return LocalRun(compute.submit(self()), self.control, out)


@pytest.fixture
def home(tmp_path: Path, compute: Engine) -> SlimApp:
    folder = tmp_path / "home"
    folder.mkdir()
    return SlimApp(folder=folder, compute=compute)


def training(compute: Engine, tmp_path: Path, script: Script) -> SlimApp:
    return SlimApp(
        run=script.run(compute, str(tmp_path / "x.bin")), compute=compute, folder=tmp_path
    )


# ---- home ------------------------------------------------------------------------------------------------------------


async def test_an_empty_home_names_the_next_key(home: SlimApp) -> None:
    async with home.run_test(notifications=True, size=SIZE) as pilot:
        await wait_for(pilot, lambda: "?      helps" in shown(home))
        text = shown(home)
        assert (
            "No models yet" in text
            and "Enter  trains the built-in stories (about 4 minutes)" in text
        )
        assert "o      opens a text file" in text and "?      helps" in text


async def test_enter_on_nothing_trains_the_stories(
    home: SlimApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Request] = []

    def start(request: Request) -> LocalRun:
        asked.append(request)
        run = Script(run_events(5, finished=False)).run(home.session.engine, request.out)
        home.session.adopt(run)
        return run

    monkeypatch.setattr(home.session, "start", start)
    async with home.run_test(notifications=True, size=SIZE) as pilot:
        await wait_for(pilot, lambda: "No models yet" in shown(home))
        await pilot.press("enter")
        await wait_for(pilot, lambda: "step 5/40" in shown(home))
    assert Path(asked[0].out).name == demo_recipe.OUT and Path(asked[0].data).name == "stories.txt"


async def test_home_lists_what_there_is(home: SlimApp, tiny_model: Path) -> None:
    (home.folder / "tiny.bin").write_bytes(tiny_model.read_bytes())
    (home.folder / "broken.bin").write_bytes(b"\x08\0\0\0\0\0\0\0{broken!")
    (home.folder / "text.txt").write_text("no model")
    write_run(home.folder / "stopped.bin", run_events(15, finished=False))
    done = write_run(home.folder / "done.bin", run_events())
    (done / "result.json").write_text("{}")
    live = write_run(home.folder / "live.bin", run_events(7, finished=False))
    (live / "lock").write_text(f"{os.getpid()}\n")
    (home.folder / "damaged.bin.run").mkdir()
    (home.folder / "damaged.bin.run" / "settings.json").write_text("[")
    async with home.run_test(notifications=True, size=(100, 30)) as pilot:
        await wait_for(pilot, lambda: "tiny.bin" in shown(home))
        text = shown(home)
        rows = {
            line.split()[0]: line
            for line in text.splitlines()
            if ".bin" in line and "in /" not in line
        }
        assert "● step 7/40" in rows["live.bin"] and "◐ step 15/40" in rows["stopped.bin"]
        assert "✓ model" in rows["tiny.bin"] and "✓ trained" in rows["done.bin"]
        assert "2.000" in rows["done.bin"]
        assert "✗ unreadable" in rows["broken.bin"] and "✗ unreadable" in rows["damaged.bin"]
        assert "text.txt" not in text
        assert text.index("live.bin") < text.index("tiny.bin")  # what trains comes first
        await pilot.press("down", "up")
        assert "watches it learn" in shown(home)
        await pilot.press("enter")
        await wait_for(pilot, lambda: "step 7/40" in shown(home))
        assert f"by process {os.getpid()}" in shown(home)


async def test_a_stopped_run_goes_on_with_r(home: SlimApp, monkeypatch: pytest.MonkeyPatch) -> None:
    write_run(home.folder / "x.bin", run_events(15, finished=False))
    asked = []

    def resume(out: str) -> LocalRun:
        asked.append(out)
        home.session.adopt(Script([started(15), stepped(16)]).run(home.session.engine, out))
        assert home.session.run is not None
        return home.session.run

    monkeypatch.setattr(home.session, "resume", resume)
    async with home.run_test(notifications=True, size=SIZE) as pilot:
        await wait_for(pilot, lambda: "goes on with it" in shown(home))
        await pilot.press("r")
        await wait_for(pilot, lambda: "step 16/40" in shown(home))
    assert asked == [str(home.folder / "x.bin")]


async def test_opening_says_what_is_wrong(home: SlimApp) -> None:
    (home.folder / "folder").mkdir()
    async with home.run_test(notifications=True, size=SIZE) as pilot:
        for text, words in (
            ("nothing.bin", "there is no such file"),
            ("~nobody-of-this-name/x", "there is no such file"),
            ("x" * 300, "file name too long"),
        ):
            await pilot.press("o")
            await wait_for(pilot, lambda: isinstance(home.screen, OpenDialog))
            home.screen.query_one(Input).value = text
            await pilot.press("enter")
            await wait_for(pilot, lambda words=words: words in " ".join(shown(home).split()))
        await pilot.press("o", "escape")
        assert isinstance(home.screen, HomeScreen)
        home.clear_notifications()
        home.open_path(home.folder / "folder")
        await wait_for(pilot, lambda: "is a folder without a text" in " ".join(shown(home).split()))


async def test_a_text_that_is_opened_fills_the_form(home: SlimApp) -> None:
    (home.folder / "my notes.txt").write_text("some text " * 500)
    async with home.run_test(notifications=True, size=SIZE) as pilot:
        await pilot.press("o")
        await wait_for(pilot, lambda: isinstance(home.screen, OpenDialog))
        await pilot.press(*"my", "right")
        await wait_for(pilot, lambda: home.screen.query_one(Input).value == "my notes.txt")
        await pilot.press("enter")
        await wait_for(pilot, lambda: "A new run" in shown(home))
        form = home.screen.query_one("#form")
        await wait_for(pilot, lambda: form.query_one("#out", Input).value == "my notes.bin")  # type: ignore[attr-defined]
        await wait_for(pilot, lambda: "parameters, a vocabulary of" in shown(home), 30)
        assert "of training" in shown(home) and "of memory" in shown(home)


def make_form_slowly(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """As on a busy machine."""
    usual = TrainScreen.on_mount

    async def slowly(screen: TrainScreen) -> None:
        await asyncio.sleep(seconds)
        usual(screen)

    monkeypatch.setattr(TrainScreen, "on_mount", slowly)


async def test_a_text_is_opened_while_its_screen_is_still_being_made(
    home: SlimApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a slow machine the wish comes before the form, which is not filled in with the built-in stories after it."""
    (home.folder / "notes.txt").write_text("some text " * 500)
    make_form_slowly(monkeypatch, 0.4)
    async with home.run_test(notifications=True, size=SIZE) as pilot:
        home.open_path(home.folder / "notes.txt")
        await wait_for(pilot, lambda: "save as     notes.bin" in shown(home))
        await wait_for(pilot, lambda: home.focused is not None and home.focused.id == "minutes")
        home.train_on(Path())
        await wait_for(pilot, lambda: "save as     stories.bin" in shown(home))


async def test_a_drawing_that_was_put_off_draws_what_came_meanwhile(
    home: SlimApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when a line of keys is exchanged while the form is filled in."""
    async with home.run_test(notifications=True, size=SIZE) as pilot:
        await pilot.press("2")
        await wait_for(pilot, lambda: "A new run" in shown(home))
        await pilot.pause(0.3)
        screen, drawn = home.screen, []
        assert isinstance(screen, TrainScreen)
        monkeypatch.setattr(home, "_display", lambda _, drawing: drawn.append(drawing))
        home._begin_batch()
        screen.form.field("out").value = "another.bin"
        await asyncio.sleep(0.2)
        home._end_batch()
        drawn.clear()
        screen._compositor_refresh()
        assert len(drawn) == 1 and drawn[0] is not None


def press_at_once(app: SlimApp, *keys: str) -> None:
    """As by a quick hand on a busy machine: all keys are there before the first of them is looked at."""
    for key in keys:
        app.post_message(events.Key(key, "." if key == "full_stop" else None))


async def test_what_is_typed_ahead_is_typed_where_it_belongs(home: SlimApp) -> None:
    (home.folder / "notes.txt").write_text("some text " * 500)
    async with home.run_test(notifications=True, size=SIZE) as pilot:
        press_at_once(home, *"onotes", "full_stop", *"txt", "enter")
        await wait_for(pilot, lambda: "save as     notes.bin" in shown(home))
        await wait_for(pilot, lambda: home.focused is not None and home.focused.id == "minutes")
        press_at_once(home, "ctrl+u", *"25", "tab", "3", "tab", "end", "backspace", "x")
        await wait_for(pilot, lambda: "save as     notes.bix" in shown(home))
        form = home.screen.query_one(TrainForm)
        assert form.field("minutes").value == "25" and form.field("epochs").value == "3"


@pytest.mark.parametrize("after", range(6))
async def test_keys_that_come_while_it_ends_are_nobodys(home: SlimApp, after: int) -> None:
    async with home.run_test(notifications=True, size=SIZE) as pilot:
        await pilot.press("o")
        press_at_once(home, *"ab", "ctrl+q", *"cde")
        for _ in range(after):
            await asyncio.sleep(0)


async def test_keys_wait_for_a_screen_that_is_made_slowly(
    home: SlimApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long it takes, with the other screens behind it, and though the field that had the key before is gone."""
    monkeypatch.setattr("slim.tui.app.SECONDS_BEFORE_PREPARING", 0.6)
    (home.folder / "notes.txt").write_text("some text " * 500)
    make_form_slowly(monkeypatch, 0.8)
    async with home.run_test(notifications=True, size=SIZE) as pilot:
        press_at_once(home, *"onotes", "full_stop", *"txt", "enter", "ctrl+u", *"25", "tab", "3")
        await wait_for(pilot, lambda: "save as     notes.bin" in shown(home))
        form = home.screen.query_one(TrainForm)
        await wait_for(pilot, lambda: form.field("epochs").value == "3")
        assert form.field("minutes").value == "25"


@pytest.mark.parametrize("there", [False, True])
async def test_a_key_that_nobody_has_dealt_with_does_not_hold_the_others(
    home: SlimApp, monkeypatch: pytest.MonkeyPatch, there: bool
) -> None:
    """What had it is gone, or is there and does nothing more; those that come later wait for neither."""
    monkeypatch.setattr(ordered_keys, "SECONDS_BETWEEN_LOOKS", 0.02 if there else 60.0)
    async with home.run_test(notifications=True, size=SIZE) as pilot:
        await pilot.press("o")
        await wait_for(pilot, lambda: isinstance(home.screen, OpenDialog))
        field = home.screen.query_one(Input)
        home._key_target, home._sent_keys = field if there else Input(), 7
        press_at_once(home, *"abc")
        await wait_for(pilot, lambda: field.value == "abc")
        press_at_once(home, *"def")
        await wait_for(pilot, lambda: field.value == "abcdef")


async def test_the_keys_before_a_click_go_where_they_were_typed(home: SlimApp) -> None:
    async with home.run_test(notifications=True, size=SIZE) as pilot:
        await pilot.press("2")
        await wait_for(pilot, lambda: home.focused is not None and home.focused.id == "minutes")
        form = home.screen.query_one(TrainForm)
        spot = form.field("out").region.offset
        press_at_once(home, "ctrl+u", *"123")
        button = {"button": 1, "shift": False, "meta": False, "ctrl": False}
        for kind in (events.MouseDown, events.MouseUp):
            home.post_message(kind(None, spot.x, spot.y, 0, 0, **button))  # type: ignore[arg-type]
        press_at_once(home, "end", "x")
        await wait_for(pilot, lambda: form.field("out").value == "stories.binx")
        assert form.field("minutes").value == "123" and form.field("out").has_focus


# ---- the form --------------------------------------------------------------------------------------------------------


async def test_the_form_says_what_is_missing(home: SlimApp) -> None:
    async with home.run_test(notifications=True, size=SIZE) as pilot:
        await pilot.press("2")
        await wait_for(pilot, lambda: "A new run" in shown(home))
        screen = home.screen
        assert isinstance(screen, TrainScreen)
        form = screen.form
        for name, value, words in (
            ("data", "", "text: which file"),
            ("out", "", "save as: a name"),
            ("minutes", "", "a run needs an end"),
            ("minutes", "-3", "must be a number above 0"),
            ("minutes", "1e9", "at most 1,000,000, but is 1e9"),
            ("data", "~nobody-of-this-name", "no such file"),
            ("data", "x" * 300, "name too long"),
            ("epochs", "x", "must be a number above 0"),
            ("data", "/no/such/file", "cannot be opened"),
        ):
            before = form.field(name).value
            form.field(name).value = value
            await wait_for(pilot, lambda words=words: words in shown(home))
            form.field(name).value = before
        (home.folder / "there.bin").write_text("x")
        form.field("out").value = "there.bin"
        await wait_for(pilot, lambda: "exists already" in " ".join(shown(home).split()))
        form.query_one("#command", Select).value = "finetune"
        form.field("out").value = "new.bin"
        await wait_for(pilot, lambda: "which model shall be taught" in shown(home))
        await pilot.press("ctrl+r")
        assert home.session.run is None
        form.query_one("#command", Select).value = "pretrain"
        form.field("out").value = "x" * 300
        await wait_for(pilot, lambda: "parameters, a vocabulary of" in shown(home), 30)
        form.field("out").value = "~nobody-of-this-name/x.bin"
        await wait_for(pilot, lambda: str(form.request().out).endswith("/~nobody-of-this-name/x.bin"))
        assert home.is_running


async def test_a_pipe_is_not_waited_for(home: SlimApp) -> None:
    os.mkfifo(home.folder / "pipe")
    async with home.run_test(notifications=True, size=SIZE) as pilot:
        home.open_path(home.folder / "pipe")
        await wait_for(pilot, lambda: "is a pipe or a device" in " ".join(shown(home).split()))


async def test_a_run_that_was_stopped_before_its_first_step_offers_the_form(home: SlimApp) -> None:
    """There is nothing to go on with, and no model."""
    script = Script([Progress("reading text", 0, 10), TrainFinished("interrupted", 0, None, None, None, 1.0)])
    script.allowed = 1
    home.session.adopt(script.run(home.session.engine, str(home.folder / "x.bin")))
    async with home.run_test(notifications=True, size=SIZE) as pilot:
        await wait_for(pilot, lambda: "reading the text" in shown(home))
        script.allowed = 2
        await wait_for(pilot, lambda: "no model was made. n opens the form" in shown(home))
        await wait_for(pilot, lambda: "n New" in shown(home).splitlines()[-1])
        assert "goes on" not in shown(home) and "Resume" not in shown(home) and "Its model" not in shown(home)


async def test_a_run_that_could_not_begin_offers_what_helps(home: SlimApp) -> None:
    """Nothing to go on with and no model to write with, but the form as it was filled in."""
    bad = home.folder / "bad.txt"
    bad.write_bytes(bytes(range(128, 256)) * 200)
    async with home.run_test(notifications=True, size=SIZE) as pilot:
        home.open_path(bad)
        await wait_for(pilot, lambda: "A new run" in shown(home))
        screen = home.screen
        assert isinstance(screen, TrainScreen)
        await wait_for(pilot, lambda: screen.form.field("data").value == str(bad))
        screen.form.field("minutes").value = "7"
        await pilot.press("ctrl+r")
        await wait_for(pilot, lambda: "n opens the form again" in shown(home), seconds=60)
        assert "is binary" in shown(home)
        await wait_for(pilot, lambda: "n New" in shown(home).splitlines()[-1])
        assert "Resume" not in shown(home) and "Its model" not in shown(home)
        await pilot.press("n")
        await wait_for(pilot, lambda: "A new run" in shown(home))
        assert screen.form.field("data").value == str(bad) and screen.form.field("data").has_focus
        assert screen.form.field("minutes").value == "7"


async def test_the_form_starts_what_it_says(home: SlimApp, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Request] = []

    def start(request: Request) -> LocalRun:
        asked.append(request)
        home.session.adopt(Script([started(), stepped(1)]).run(home.session.engine, request.out))
        assert home.session.run is not None
        return home.session.run

    monkeypatch.setattr(home.session, "start", start)
    async with home.run_test(notifications=True, size=SIZE) as pilot:
        await pilot.press("2")
        await wait_for(pilot, lambda: "A new run" in shown(home))
        form = home.screen.query_one("#form")
        form.query_one("#preset", Select).value = "tiny"
        form.query_one("#minutes", Input).value = "2,5"
        form.query_one("#epochs", Input).value = "3"
        await pilot.press("escape")  # the focus is nowhere, the key is the screen's
        await pilot.press("ctrl+r")
        await wait_for(pilot, lambda: "step 1/40" in shown(home))
    (request,) = asked
    assert request.command == "pretrain" and request.epochs == 3.0
    assert dict(request.settings.values) == {"minutes": 2.5, "preset": "tiny"}
    assert Path(request.out).parent == home.folder


async def test_letters_belong_to_a_field_that_has_the_focus(home: SlimApp) -> None:
    async with home.run_test(notifications=True, size=SIZE) as pilot:
        await pilot.press("2")
        await wait_for(pilot, lambda: "A new run" in shown(home))
        field = home.screen.query_one("#out", Input)
        field.value = ""
        field.focus()
        await pilot.press("o", "n", "1", "space", "question_mark")
        assert field.value == "on1 ?" and isinstance(home.screen, TrainScreen)
        await pilot.press("escape")
        assert home.screen.focused is None
        await pilot.press("escape")
        assert isinstance(home.screen, HomeScreen)
        await pilot.press("f3")
        assert isinstance(home.screen, TrainScreen)
        field.focus()
        await pilot.press("f2")
        assert isinstance(home.screen, HomeScreen)


# ---- the monitor -----------------------------------------------------------------------------------------------------


async def test_the_monitor_has_the_layout_of_80_by_24(tmp_path: Path, compute: Engine) -> None:
    script = Script(run_events(25, finished=False))
    app = training(compute, tmp_path, script)
    async with app.run_test(notifications=True, size=SIZE) as pilot:
        await wait_for(pilot, lambda: "step 25/40" in shown(app))
        places = {
            name: (widget.region.y, widget.region.height)
            for name in ("#status", "#chart", "#gauges", "#right")
            for widget in [app.screen.query_one(name)]
        }
        assert places == {
            "#status": (1, 1),
            "#chart": (2, 11),
            "#gauges": (13, 2),
            "#right": (15, 8),
        }
        assert app.screen.query_one("Footer").region.y == 23
        await wait_for(pilot, lambda: "a story of step 20" in shown(app))
        text = shown(app)
        assert "62 %" in text and "0:12 gone, 0:08 left" in text and "epoch 2.50" in text
        assert "zzz qqq" in text and "after step 20" in text and "before the first step" in text


async def test_no_digit_is_lost_where_it_is_narrow(tmp_path: Path, compute: Engine) -> None:
    app = training(compute, tmp_path, Script(run_events(25, finished=False)))
    async with app.run_test(notifications=True, size=(60, 16)) as pilot:
        await wait_for(pilot, lambda: "step 25/40" in shown(app))
        await wait_for(pilot, lambda: "tok/s 1,000" in shown(app))
        await pilot.resize_terminal(80, 24)
        await wait_for(pilot, lambda: "tokens/s 1,000" in shown(app))


async def test_every_key_of_the_monitor(tmp_path: Path, compute: Engine) -> None:
    script = Script(run_events(25, finished=False))
    app = training(compute, tmp_path, script)
    async with app.run_test(notifications=True, size=SIZE) as pilot:
        await wait_for(pilot, lambda: "step 25/40" in shown(app))
        screen = app.screen
        assert isinstance(screen, TrainScreen) and app.session.run is not None
        await pilot.press("space")
        assert app.session.run.job.paused
        await wait_for(pilot, lambda: "paused" in shown(app))
        await pilot.press("s")
        assert script.control.save_now
        await pilot.press("space")
        assert not app.session.run.job.paused
        await wait_for(pilot, lambda: script.saved == 1)
        await pilot.press("y")
        assert screen.chart.log_scale
        await pilot.press("e")
        assert screen.chart.shown == "smoothed"
        await pilot.press("plus")
        assert screen.chart.window is not None
        await pilot.press("left", "0")
        assert screen.chart.window is None and screen.chart.crosshair is None
        await pilot.press("minus", "g")
        assert screen.chart.glyphs.name == "blocks"
        await pilot.press("l")
        await wait_for(pilot, lambda: "validation after step 20" in shown(app))
        await pilot.press("l")
        await wait_for(pilot, lambda: "a story of step 20" in shown(app))
        await pilot.press("c")
        assert screen.samples.texts[0].mode == "numbers"
        await pilot.press("right_square_bracket", "left_square_bracket")
        await pilot.press("x")
        assert script.control.stop
        await wait_for(pilot, lambda: "stopped after step" in shown(app))
        assert "r goes on where it stopped" in shown(app)


async def test_a_sample_is_written_live(tmp_path: Path, compute: Engine) -> None:
    events: list[Event] = [started(), *sample_events(0, "nothing yet"), stepped(1)]
    events += [SampleStarted(1, 0, "Once"), token(0, " there"), token(1, " was")]
    script = Script(events)
    app = training(compute, tmp_path, script)
    async with app.run_test(notifications=True, size=SIZE) as pilot:
        await wait_for(pilot, lambda: "Once there was" in shown(app))
        assert "after step 1, writing" in shown(app) and "nothing yet" in shown(app)
        script.events += [token(2, " a"), token(3, " fox")]
        script.allowed += 2
        await wait_for(pilot, lambda: "Once there was a fox" in shown(app))


async def test_the_samples_of_a_followed_run_show_what_is_known_of_their_confidence(
    tmp_path: Path, compute: Engine
) -> None:
    """A journal holds each token's p, one from before there was none; text without a p has no shade and is not lost."""
    shades = ((4, 0.9), (4, 0.02))
    samples = [
        SampleFinished(1, 0, "Once", " old text", 0.4),
        SampleFinished(2, 0, "Once", " one two three", 0.4, shades),
    ]
    folder = write_run(tmp_path / "x.bin", [started(), *samples, stepped(3)])
    app = SlimApp([folder], compute=compute)
    async with app.run_test(notifications=True, size=SIZE) as pilot:
        await wait_for(pilot, lambda: "Once one two three" in shown(app))
        screen = app.screen
        assert isinstance(screen, TrainScreen)
        now, then = screen.samples.texts
        known = [(piece.text, piece.token.p) for piece in now.flow.pieces if piece.token is not None]
        assert known == [(" one", 0.9), (" two", 0.02)]
        assert "Once old text" in shown(app) and not list(then.flow.tokens)
        now.focus()
        await pilot.press("n")
        assert now.selected is not None and now.selected.text == " two"
        await pilot.press("enter", "c", "c", "c", "y")
        assert app.clipboard == "Once one two three"


async def test_earlier_samples_are_chosen(tmp_path: Path, compute: Engine) -> None:
    app = training(compute, tmp_path, Script(run_events()))
    async with app.run_test(notifications=True, size=SIZE) as pilot:
        await wait_for(pilot, lambda: "a story of step 40" in shown(app))
        assert "zzz qqq" in shown(app) and "1 of 2" in shown(app)
        await pilot.press("right_square_bracket")
        await wait_for(pilot, lambda: "a story of step 20" in shown(app))
        assert "2 of 2" in shown(app)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (DivergedError("training diverged"), ("diverged", "Saved: everything up to step 0", "n begins anew")),
        (SaveError("x.bin: cannot be written: no space left"), ("no space left", "Make room", "r goes on")),
        (UsageError("x.bin: exists"), ("x.bin: exists", "goes on from there")),
        (RuntimeError("a bug \x1b[31m of ours"), ("RuntimeError: a bug", "goes on from there")),
    ],
)  # fmt: skip
async def test_a_failure_says_what_happened_what_is_saved_and_what_next(
    tmp_path: Path, compute: Engine, error: BaseException, words: tuple[str, ...]
) -> None:
    (tmp_path / "x.bin.run").mkdir()
    (tmp_path / "x.bin.run" / "last").write_text("saved")
    app = training(compute, tmp_path, Script(run_events(3, finished=False), error))
    async with app.run_test(notifications=True, size=SIZE) as pilot:
        await wait_for(pilot, lambda: words[0] in shown(app))
        text = " ".join(shown(app).split())
        assert all(word in text for word in words), text
        assert "\x1b" not in text and not app.session.training


async def test_what_cannot_go_on_is_not_offered_to(tmp_path: Path, compute: Engine) -> None:
    """A disk that was full from the start: there is nothing to go on with, and no model."""
    full = SaveError("x.bin.run/last: cannot be saved: no space left")
    app = training(compute, tmp_path, Script(run_events(3, finished=False), full))
    async with app.run_test(notifications=True, size=SIZE) as pilot:
        await wait_for(pilot, lambda: "then n begins anew." in " ".join(shown(app).split()))
        await wait_for(pilot, lambda: "n New" in shown(app).splitlines()[-1])
        assert "Resume" not in shown(app) and "Its model" not in shown(app)
    folder = write_run(tmp_path / "y.bin", run_events(3, finished=False))
    app = SlimApp([folder], compute=compute, folder=tmp_path)
    async with app.run_test(notifications=True, size=SIZE) as pilot:
        await wait_for(pilot, lambda: "No process trains this run now. n begins anew" in shown(app))
        assert "best model" not in shown(app)


async def test_a_failure_before_the_first_step(tmp_path: Path, compute: Engine) -> None:
    app = training(compute, tmp_path, Script([], UsageError("x.bin: exists: choose another OUT")))
    async with app.run_test(notifications=True, size=SIZE) as pilot:
        await wait_for(pilot, lambda: "choose another OUT" in shown(app))
        assert "Nothing was begun" in shown(app) and "n opens the form." in shown(app)
        await wait_for(pilot, lambda: "training x.bin" not in shown(app))
        await pilot.press("n")
        await wait_for(pilot, lambda: "A new run" in shown(app))
        await pilot.press("escape", "escape")
        await wait_for(pilot, lambda: "choose another OUT" in shown(app))


async def test_a_stage_is_shown_with_its_progress(tmp_path: Path, compute: Engine) -> None:
    app = training(compute, tmp_path, Script([Progress("compiling kernels", 3, 10)]))
    async with app.run_test(notifications=True, size=SIZE) as pilot:
        await wait_for(pilot, lambda: "compiling kernels 3/10 (first run only)" in shown(app))


async def test_a_run_of_another_process_is_read_only(tmp_path: Path, compute: Engine) -> None:
    folder = write_run(tmp_path / "x.bin", run_events(12, finished=False))
    app = SlimApp([folder], compute=compute, folder=tmp_path)
    async with app.run_test(notifications=True, size=SIZE) as pilot:
        await wait_for(pilot, lambda: "step 12/40" in shown(app))
        await wait_for(pilot, lambda: "No process trains this run now" in shown(app))
        await pilot.press("space", "s", "x")
        assert "paused" not in shown(app) and app.session.run is None
        assert "n begins anew" in shown(app) and "Its model" not in shown(app), "nothing was saved"
        write_run(tmp_path / "x.bin", run_events())
        await wait_for(pilot, lambda: "step 40/40" in shown(app))
        await wait_for(pilot, lambda: "done after 40 steps" in shown(app))


async def test_runs_are_laid_over_each_other(tmp_path: Path, compute: Engine) -> None:
    paths = [
        write_run(tmp_path / "a.bin", run_events()),
        write_run(tmp_path / "b.bin", run_events(9, finished=False)),
    ]
    app = SlimApp(paths, compute=compute, folder=tmp_path)
    async with app.run_test(notifications=True, size=(120, 40)) as pilot:
        await wait_for(pilot, lambda: "a.bin 1.600" in shown(app) and "b.bin 4.211" in shown(app))


async def test_wide_screens_have_two_columns(tmp_path: Path, compute: Engine) -> None:
    app = training(compute, tmp_path, Script(run_events(25, finished=False)))
    async with app.run_test(notifications=True, size=(160, 50)) as pilot:
        await wait_for(pilot, lambda: "step 25/40" in shown(app))
        left, right = app.screen.query_one("#left").region, app.screen.query_one("#right").region
        assert left.y == right.y and left.right == right.x
        await wait_for(
            pilot, lambda: "validation after step 20" in shown(app)
        )  # the log beside the samples
        for size in ((99, 30), (60, 16), (200, 60), (80, 24)):
            await pilot.resize_terminal(*size)
            await pilot.pause()
            assert len(shown(app).splitlines()) == size[1]


async def test_a_run_that_goes_on_shows_its_past(tmp_path: Path, compute: Engine) -> None:
    """What the journal tells: every step once, though it has been gone on with already, and no end of the run."""
    write_run(tmp_path / "x.bin", run_events(25, finished=False))
    app = training(compute, tmp_path, Script([started(20), stepped(21), stepped(22)]))
    async with app.run_test(notifications=True, size=SIZE) as pilot:
        await wait_for(pilot, lambda: "step 22/40" in shown(app))
        run = app.session.run
        assert run is not None
        view = run.view
        assert len(view.loss) == 22 and view.loss.at(1) is not None
        assert view.validations == [(20, pytest.approx(8.2 / 3))]
        assert [sample.step for sample in view.samples] == [0, 20]
        assert run.training and view.state.finished is None


def test_a_long_past_is_taken_in_by_parts_and_before_what_happens_now(
    tmp_path: Path, compute: Engine
) -> None:
    write_run(tmp_path / "x.bin", [stepped(step) for step in range(1, 5_001)])
    end = TrainFinished("finished", 5_001, None, None, None, 1.0)
    run = Script([started(5_000), stepped(5_001), end]).run(compute, str(tmp_path / "x.bin"))
    lengths, until = [0], time.monotonic() + 30
    while run.training:
        run.poll()
        lengths.append(len(run.view.loss))
        assert lengths[-1] - lengths[-2] <= EVENTS_PER_POLL + 1
        assert time.monotonic() < until
        time.sleep(0.001)
    assert lengths[-1] == 5_001 and run.view.loss.last_step == 5_001


async def test_the_log_is_broken_again_for_another_width(tmp_path: Path, compute: Engine) -> None:
    app = training(compute, tmp_path, Script(run_events(25, finished=False)))
    async with app.run_test(notifications=True, size=(100, 40)) as pilot:
        whole = "validation after step 20: loss 2.733, 2.000 bits/byte"
        await wait_for(pilot, lambda: "validation after step 20" in shown(app))
        assert whole not in shown(app)
        await pilot.resize_terminal(200, 40)
        await wait_for(pilot, lambda: whole in shown(app))
        assert shown(app).count("validation after step 20") == 1


@pytest.mark.parametrize(
    "name",
    ["evil\x1b]0;OWNED\x07\x1b[31mred.txt", "bidi\u202etxt.exe", "zw\u200b\ufeff.txt", "c1\x9b31m.txt", "a\nb.txt"],
    ids=ascii,
)  # fmt: skip
async def test_the_form_shows_no_control_bytes_of_a_file_s_name(
    tmp_path: Path, compute: Engine, name: str
) -> None:
    (tmp_path / name).write_text("Once upon a time there was a fox. " * 100)
    app = SlimApp([tmp_path / name], compute=compute, folder=tmp_path)
    async with app.run_test(notifications=True, size=(160, 40)) as pilot:
        await wait_for(pilot, lambda: safe_text(name).replace("\n", "␊") in shown(app))
        assert shown(app) == safe_text(shown(app))


@pytest.mark.parametrize(
    ("epochs", "words"), [(0.5, "0.5"), (1.06, "1.1"), (9.94, "9.9"), (9.96, "10"), (544.0, "544"), (1234.5, "1,234")]
)  # fmt: skip
def test_how_often_a_text_is_read_is_said_without_an_exponent(epochs: float, words: str) -> None:
    assert times(epochs) == words


async def test_too_small_a_terminal_says_what_it_needs(home: SlimApp) -> None:
    async with home.run_test(notifications=True, size=(59, 16)) as pilot:
        await wait_for(pilot, lambda: "SLiM needs 60 x 16" in shown(home))
        assert "this terminal is 59 x 16" in shown(home)
        await pilot.press("escape", "2")
        assert isinstance(home.screen, TooSmall)
        await pilot.resize_terminal(60, 16)
        await wait_for(pilot, lambda: isinstance(home.screen, HomeScreen))


async def test_a_terminal_that_grows_under_a_dialog_is_large_enough_after_it(home: SlimApp) -> None:
    async with home.run_test(notifications=True, size=(59, 16)) as pilot:
        await wait_for(pilot, lambda: isinstance(home.screen, TooSmall))
        await pilot.press("ctrl+p")
        assert isinstance(home.screen, TooSmall), "there is no room for it"
        home.push_screen(QuitDialog())  # there is for this one
        await wait_for(pilot, lambda: isinstance(home.screen, QuitDialog))
        await pilot.resize_terminal(*SIZE)
        await pilot.press("escape")
        await wait_for(pilot, lambda: isinstance(home.screen, HomeScreen))


async def test_nothing_but_ascii_where_the_locale_has_no_more(
    tmp_path: Path, compute: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LANG", "C")
    app = training(compute, tmp_path, Script(run_events(25, finished=False)))
    async with app.run_test(notifications=True, size=(120, 40)) as pilot:
        await wait_for(pilot, lambda: "step 25/40" in shown(app))
        await wait_for(pilot, lambda: "a story of step 20" in shown(app))
        chart = "\n".join(line[:70] for line in shown(app).splitlines()[1:-1])
        assert chart.isascii(), chart
        await pilot.resize_terminal(80, 24)
        await pilot.press("question_mark")  # longer than the screen: it has a scroll bar
        await wait_for(pilot, lambda: "On this screen" in shown(app))
        assert shown(app).isascii(), shown(app)
        await pilot.press("escape", "ctrl+p")  # a screen of Textual's own
        await wait_for(pilot, lambda: "key: 1" in shown(app))
        assert shown(app).isascii(), shown(app)
        await pilot.press("escape")
        await pilot.resize_terminal(60, 16)  # the corner above has no room for all of its words
        await wait_for(pilot, lambda: "tok/s" in shown(app))
        assert shown(app).isascii() and "~" in shown(app).splitlines()[0]


async def test_hostile_text_acts_nowhere(tmp_path: Path, compute: Engine) -> None:
    evil = "[red]bold[/] \x1b[31m\x1b]0;title\x07 \u202e \u200b \x9b31m"
    events: list[Event] = [
        started(), Progress(evil, 1, 2), *sample_events(0, evil, evil), stepped(1),
    ]  # fmt: skip
    script = Script(events, DivergedError(evil))
    name = "x[b]\x1b[31m.bin"
    app = SlimApp(run=script.run(compute, str(tmp_path / name)), compute=compute, folder=tmp_path)
    write_run(tmp_path / name, run_events(3, finished=False))
    async with app.run_test(notifications=True, size=(120, 40)) as pilot:
        await wait_for(pilot, lambda: "bold" in shown(app))
        texts = [shown(app)]
        await pilot.press("1")
        await wait_for(pilot, lambda: "x[b]" in shown(app))
        texts.append(shown(app))
        for text in texts:
            assert not any(
                (ord(character) < 32 and character != "\n") or 0x7F <= ord(character) < 0xA0
                or character in "\u202e\u200b" for character in text
            )  # fmt: skip
        assert "[red]" in texts[0]


# ---- everywhere ------------------------------------------------------------------------------------------------------


async def test_help_lists_every_binding(tmp_path: Path, compute: Engine) -> None:
    app = training(compute, tmp_path, Script(run_events(5, finished=False)))
    async with app.run_test(notifications=True, size=SIZE) as pilot:
        await wait_for(pilot, lambda: "step 5/40" in shown(app))
        keys = list(described_keys(app.screen))
        assert ("Here", "Left", "crosshair to the left") in keys
        assert ("On this screen", "Space", "pause training, or go on") in keys
        assert any(group == "Everywhere" and words == "Quit" for group, _, words in keys)
        for binding in TrainScreen.BINDINGS:
            offered = app.screen.check_action(binding.action.partition("(")[0], ())  # type: ignore[union-attr]
            words = binding.tooltip or binding.description  # type: ignore[union-attr]
            assert any(shown_words == words for _, _, shown_words in keys) == bool(offered), words
        await pilot.press("question_mark")
        await wait_for(pilot, lambda: isinstance(app.screen, HelpScreen))
        assert "crosshair to the left" in shown(app)
        await pilot.press("escape")
        assert isinstance(app.screen, TrainScreen)


async def test_help_in_a_field_names_its_own_keys_first(home: SlimApp) -> None:
    async with home.run_test(notifications=True, size=SIZE) as pilot:
        await pilot.press("4")
        await wait_for(pilot, lambda: "Enter sends" in shown(home))
        keys = list(described_keys(home.screen))
        here = [(names, words) for group, names, words in keys if group == "Here"]
        assert here == [("Enter", "write on from it, or send it"), ("^j, alt+Enter", "new line")]
        assert ("In every text field", "shift+Home", "Cursor line start select") in keys
        await pilot.press("f1")
        await wait_for(pilot, lambda: isinstance(home.screen, HelpScreen))
        text = shown(home)
        assert text.index("Here") < text.index("On this screen") < text.index("Everywhere")


async def test_the_palette_offers_the_keys(tmp_path: Path, compute: Engine) -> None:
    app = training(compute, tmp_path, Script(run_events(5, finished=False)))
    async with app.run_test(notifications=True, size=(100, 30)) as pilot:
        await wait_for(pilot, lambda: "step 5/40" in shown(app))
        commands = {command.title: command for command in app.get_system_commands(app.screen)}
        assert {"Theme", "Quit", "Pause", "Log scale", "Help", "Open"} <= set(commands)
        commands["Log scale"].callback()
        screen = app.screen
        assert isinstance(screen, TrainScreen)
        await wait_for(pilot, lambda: screen.chart.log_scale)
        commands["Home"].callback()  # an action of the app
        await wait_for(pilot, lambda: isinstance(app.screen, HomeScreen))
        opens = [command.help for command in app.get_system_commands(app.screen) if command.title == "Open"]
        assert opens == ["key: Enter", "key: o"]  # what is selected, and a path


async def test_the_palette_and_a_dialog_may_be_answered_twice(home: SlimApp) -> None:
    async with home.run_test(notifications=True, size=SIZE) as pilot:
        for times_pressed in (1, 2, 3, 4):
            press_at_once(home, "ctrl+p")
            await wait_for(pilot, lambda: "key: 4" in shown(home))
            press_at_once(home, *"chat")
            await wait_for(pilot, lambda: "key: 4" in shown(home) and "key: 3" not in shown(home))
            press_at_once(home, *["enter"] * times_pressed)
            await wait_for(pilot, lambda: isinstance(home.screen, ChatScreen))
            await pilot.press("f2")
            await wait_for(pilot, lambda: isinstance(home.screen, HomeScreen))
        dialog = OpenDialog(home.folder)
        home.push_screen(dialog)
        await wait_for(pilot, lambda: home.focused is not None and home.focused.id == "path")
        for _ in range(2):
            dialog.post_message(Input.Submitted(dialog.query_one(Input), ""))
        await wait_for(pilot, lambda: isinstance(home.screen, HomeScreen))
        await pilot.pause()
        assert home.is_running


async def test_leaving_without_a_run(home: SlimApp) -> None:
    async with home.run_test(notifications=True, size=SIZE) as pilot:
        await pilot.press("ctrl+q")
        await wait_for(pilot, lambda: not home.is_running)
    assert home.return_value == Outcome()


@pytest.mark.parametrize(("key", "stops"), [("s", True), ("k", False)])
async def test_leaving_a_run_asks(tmp_path: Path, compute: Engine, key: str, stops: bool) -> None:
    script = Script(run_events(5, finished=False))
    app = training(compute, tmp_path, script)
    async with app.run_test(notifications=True, size=SIZE) as pilot:
        await wait_for(pilot, lambda: "step 5/40" in shown(app))
        await pilot.press("space", "ctrl+q")
        await wait_for(pilot, lambda: isinstance(app.screen, QuitDialog))
        assert "keep training, without the dashboard" in shown(app)
        await pilot.press("c")
        assert app.is_running and isinstance(app.screen, TrainScreen)
        await pilot.press("ctrl+q")
        await wait_for(pilot, lambda: isinstance(app.screen, QuitDialog))
        await pilot.press(key)
        await wait_for(pilot, lambda: not app.is_running)
    outcome = app.return_value
    assert outcome is not None and outcome.run is app.session.run and outcome.run is not None
    assert script.control.stop is stops and not outcome.run.job.paused
    script.control.stop = True
    assert (
        list(outcome.run.job)[-1] == TrainFinished("interrupted", 8 + 3, None, None, None, 1.0)
        or stops
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
async def test_a_signal_saves_and_leaves(
    tmp_path: Path, compute: Engine, number: signal.Signals
) -> None:
    script = Script(run_events(5, finished=False))
    app = training(compute, tmp_path, script)
    async with app.run_test(notifications=True, size=SIZE) as pilot:
        await wait_for(pilot, lambda: "step 5/40" in shown(app))
        os.kill(os.getpid(), number)
        await wait_for(pilot, lambda: not app.is_running)
    outcome = app.return_value
    assert outcome is not None and outcome.signal == number and script.control.stop
    assert outcome.run is not None and isinstance(list(outcome.run.job)[-1], TrainFinished)
    await asyncio.sleep(0)


async def test_the_corner_changes_its_numbers_now_and_then_and_its_words_at_once(
    home: SlimApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    words = "training out.bin 1 %"
    monkeypatch.setattr(SlimApp, "doing", lambda app: words)
    async with home.run_test(size=SIZE) as pilot:
        await pilot.pause(0.3)
        home.doing_changed.subscribe(home.screen, told.append, immediate=True)
        monkeypatch.setattr("slim.tui.app.SECONDS_BETWEEN_NUMBERS", 3600.0)
        words = "training out.bin 2 %"
        await pilot.pause(0.4)
        assert not told
        words = "paused at step 5"
        await wait_for(pilot, lambda: told == ["paused at step 5"])
        monkeypatch.setattr("slim.tui.app.SECONDS_BETWEEN_NUMBERS", 0.0)
        words = "paused at step 6"
        await wait_for(pilot, lambda: told[-1] == "paused at step 6")


async def test_a_run_goes_on_while_another_screen_is_shown(tmp_path: Path, compute: Engine) -> None:
    script = Script(run_events())
    script.allowed = 8
    app = training(compute, tmp_path, script)
    async with app.run_test(notifications=True, size=SIZE) as pilot:
        await wait_for(pilot, lambda: "gone" in shown(app))
        await pilot.press("1")
        await wait_for(pilot, lambda: isinstance(app.screen, HomeScreen))
        script.allowed = len(script.events)
        await wait_for(pilot, lambda: not app.session.training)
        await pilot.press("2")
        await wait_for(pilot, lambda: f"step {TOTAL}/{TOTAL}" in shown(app))
        assert app.screen.query_one(ContentSwitcher).current == "monitor"
        assert isinstance(app.screen.query_one("#notice"), Static)


def test_small_words() -> None:
    assert shortened("abcdefghij", 20) == "abcdefghij" and len(shortened("a" * 50, 20)) == 20
    assert millions(7_343_360) == "7.3 M" and millions(12) == "12"
    assert [age(seconds) for seconds in (5, 61, 7200, 200_000)] == ["now", "1 min", "2 h", "2 d"]
    assert (
        bar(5, 10, 4, True) == "##--"
        and bar(0, 0, 3, True) == "---"
        and bar(99, 10, 2, True) == "##"
    )
    assert issubclass(DivergedError, SlimError) and RunStarted is not None


async def test_the_columns_of_home_stay_together(home: SlimApp) -> None:
    write_run(home.folder / "a.bin", run_events(3, finished=False))
    async with home.run_test(notifications=True, size=(160, 50)) as pilot:
        await wait_for(pilot, lambda: "step 3/40" in shown(home))
        (line,) = [line for line in shown(home).splitlines() if "step 3/40" in line]
        assert line.index("step 3/40") < 50
        name = f"{'long' * 20}.bin"
        write_run(home.folder / name, run_events(3, finished=False))
        await wait_for(pilot, lambda: name in shown(home))


async def test_a_screen_that_comes_back_is_drawn_whole(home: SlimApp, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where notices stood while the terminal was too small, Textual left holes in what came back."""
    drawn: list[type] = []
    monkeypatch.setattr(home, "_draw_all", lambda: drawn.append(type(home.screen)))
    async with home.run_test(notifications=True, size=SIZE) as pilot:
        home.notify("a notice", timeout=60)
        await wait_for(pilot, lambda: "a notice" in shown(home))
        await pilot.resize_terminal(59, 15)
        await wait_for(pilot, lambda: isinstance(home.screen, TooSmall))
        assert not drawn
        await pilot.resize_terminal(*SIZE)
        await wait_for(pilot, lambda: drawn == [HomeScreen])
