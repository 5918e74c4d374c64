"""The Generate screen under the pilot, with a model that says what it is told."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from textual.pilot import Pilot

from scripted import (
    Script,
    finish,
    id_of,
    screen_text,
    scripted_model,
    token,
    until,
    with_dashboard,
)
from slim.compute import call
from slim.errors import UsageError
from slim.events import Note, TextScored
from slim.model_file import load_model
from slim.tui.app import SlimApp
from slim.tui.generate_screen import GenerateScreen
from slim.tui.inspector import Inspector, bar, probability, verdict, visible
from slim.tui.sampler_settings import SamplerSettings
from slim.tui.session import OpenModel

FOX = (
    token(" fox", 0.9, 0, ((" fox", 0.9), (" cat", 0.05))),
    token(" ran", 0.02, 1, ((" sat", 0.6), (" ate", 0.3), (" ran", 0.02))),
    token(" home.", 0.6, 2, ((" home.", 0.6),)),
)


def play(monkeypatch: pytest.MonkeyPatch, *events: Any) -> Script:
    script = Script(*events)
    monkeypatch.setattr("slim.generate.generate", script)
    return script


def screen_of(app: SlimApp) -> GenerateScreen:
    assert isinstance(app.screen, GenerateScreen)
    return app.screen


async def write(app: SlimApp, pilot: Pilot[Any], prompt: str = "The") -> GenerateScreen:
    """Type a prompt, send it and wait for the text."""
    screen = screen_of(app)
    screen.prompt.text = prompt
    await pilot.press("enter")
    await until(pilot, lambda: screen.writing is None)
    await pilot.pause()
    return screen


@pytest.mark.parametrize("size", [(60, 16), (80, 24), (120, 40)])
def test_a_text_with_its_measures_and_reason(
    monkeypatch: pytest.MonkeyPatch, size: tuple[int, int]
) -> None:
    async def body(app: SlimApp, pilot: Pilot[Any]) -> None:
        await write(app, pilot)
        shown = screen_text(app)
        assert "The fox ran home." in shown
        assert "3 tokens · 321 tokens/s · typical p .22" in shown
        assert "as many tokens as asked for" in shown
        assert size[0] < 80 or "seed 11" in shown
        assert "≥.80" in shown and "temp" in shown

    script = play(monkeypatch, *FOX, finish("length"))
    with_dashboard(body, "generate", scripted_model(), size)
    (asked,) = script.asked
    assert asked.ids == [id_of("T"), id_of("h"), id_of("e")] and asked.n_alternatives == 8
    assert asked.config.stop_confidence == "auto" and asked.config.seed is None


def test_frames_of_ascii(monkeypatch: pytest.MonkeyPatch) -> None:
    async def body(app: SlimApp, pilot: Pilot[Any]) -> None:
        await write(app, pilot)
        await pilot.press("escape", "n", "enter")
        await pilot.pause()
        for frame in (screen_of(app).prompt, screen_of(app).text, screen_of(app).inspector):
            lines = [frame.render_line(y).text for y in range(frame.size.height)]
            assert "".join(lines).isascii()
            assert frame.styles.border_top[0] == "ascii"

    play(monkeypatch, *FOX, finish())
    monkeypatch.setattr("slim.tui.app.ascii_only", lambda: True)
    with_dashboard(body, "generate", scripted_model())


def test_notes_of_a_model_that_is_opened_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    async def body(app: SlimApp, pilot: Pilot[Any]) -> None:
        app.open_model(Path("other.bin"))
        await until(pilot, lambda: app.session.opened is other)
        await pilot.pause()
        assert any("came from elsewhere" in one.message for one in app._notifications)
        assert "other.bin" in screen_text(app)

    other = scripted_model("other.bin")
    events = [Note("it came from elsewhere\x1b[2J"), other]
    monkeypatch.setattr("slim.tui.app.opening", lambda path: iter(events))
    monkeypatch.setattr("slim.tui.app.remember", lambda path: None)
    with_dashboard(body, "generate", scripted_model())


def test_who_went_elsewhere_while_a_model_is_opened_stays_there(monkeypatch: pytest.MonkeyPatch) -> None:
    async def body(app: SlimApp, pilot: Pilot[Any]) -> None:
        app.open_model(Path("first.bin"))
        await pilot.press("f3")
        read.set()
        await until(pilot, lambda: app.session.opened is not None)
        await pilot.pause()
        assert app.current_mode == "train", "not pulled away from the form"
        app.open_model(Path("second.bin"))
        await until(pilot, lambda: app.current_mode == "generate" and "second.bin" in screen_text(app))

    def opening(path: Path) -> Iterator[OpenModel]:
        read.wait(30)
        yield scripted_model(path.name)

    read = threading.Event()
    monkeypatch.setattr("slim.tui.app.opening", opening)
    monkeypatch.setattr("slim.tui.app.remember", lambda path: None)
    with_dashboard(body, "home", None)


def test_selecting_scrolls_at_the_last_line_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside the inspector five lines of a text are left at 80x24: they stay where they are under the mouse."""

    async def body(app: SlimApp, pilot: Pilot[Any]) -> None:
        screen = screen_of(app)
        screen.text.append_tokens([token(f"line {i}\n") for i in range(40)])
        screen.text.scroll_home(animate=False, immediate=True)
        await pilot.press("escape", "right")
        await until(pilot, lambda: screen.text.size.height == 5)
        region = screen.text.content_region
        for row, scrolls in enumerate((False, False, False, False, True)):
            screen._check_auto_scroll(screen.text, (region.x + 5, region.y + row), 1)
            assert (screen._auto_select_scroll_timer is not None) is scrolls, row
        screen._stop_auto_scroll()

    with_dashboard(body, "generate", scripted_model())


def test_without_a_model_it_says_which_key_opens_one() -> None:
    async def body(app: SlimApp, pilot: Pilot[Any]) -> None:
        assert "no model is open: o opens one" in screen_text(app)
        screen_of(app).prompt.text = "x"
        await pilot.press("enter")
        await pilot.press("ctrl+r", "ctrl+g", "ctrl+t")
        assert screen_of(app).writing is None

    with_dashboard(body, "generate", None)


def test_escape_stops_then_leaves_the_field_then_goes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    async def body(app: SlimApp, pilot: Pilot[Any]) -> None:
        screen = screen_of(app)
        await pilot.press("T", "h", "e", "enter")
        await until(pilot, lambda: screen.text.text == "The fox")
        assert "writing, Esc stops" in screen_text(app)
        await pilot.press("escape")
        await until(pilot, lambda: screen.writing is None)
        assert "interrupted" in screen_text(app) and screen.text.text == "The fox"
        assert screen.prompt.has_focus
        await pilot.press("escape")
        assert screen.text.has_focus
        await pilot.press("escape")
        await pilot.pause()
        assert not isinstance(app.screen, GenerateScreen)

    play(monkeypatch, FOX[0], "wait")
    with_dashboard(body, "generate", scripted_model())


def test_low_confidence_trims_what_was_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    async def body(app: SlimApp, pilot: Pilot[Any]) -> None:
        screen = await write(app, pilot)
        assert screen.text.text == "The fox ran"
        assert "2 tokens" in screen_text(app) and "unsure for" in screen_text(app)

    play(monkeypatch, *FOX, finish("low_confidence", kept=len(" fox ran")))
    with_dashboard(body, "generate", scripted_model())


@pytest.mark.parametrize("size", [(80, 24), (140, 40)])
def test_inspector_and_branch(monkeypatch: pytest.MonkeyPatch, size: tuple[int, int]) -> None:
    async def body(app: SlimApp, pilot: Pilot[Any]) -> None:
        screen = await write(app, pilot)
        await pilot.press("escape", "n")
        await pilot.pause()
        shown = screen_text(app)
        assert '"␣ran"' in shown and "torn between two" in shown and "sampled p .01" in shown
        assert "␣sat" in shown and ".60" in shown and "others" in shown and ".08" in shown
        await pilot.press("enter")
        assert screen.inspector.has_focus
        await pilot.press("down", "up", "down")
        script.events = [token(" mice", 0.4, 0), finish("eos", seed=11)]
        await pilot.press("enter")
        await until(pilot, lambda: len(script.asked) == 2 and screen.writing is None)
        assert screen.text.text == "The foxe mice", "a token of this tokenizer is one byte"
        ids = [id_of(c) for c in "The"] + [id_of(" fox"), id_of(" ate")]
        assert script.asked[1].ids == ids and script.asked[1].config.seed == 11
        assert "3 tokens" in screen_text(app)
        await pilot.press("left", "left")
        await pilot.pause()
        assert screen.text.selected is not None and screen.text.selected.p == 0.3
        assert "chosen by hand" in screen_text(app)

    script = play(monkeypatch, *FOX, finish())
    with_dashboard(body, "generate", scripted_model(), size)


def test_the_text_is_seen_beside_its_alternatives_in_a_low_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    async def body(app: SlimApp, pilot: Pilot[Any]) -> None:
        screen = await write(app, pilot)
        await pilot.press("escape", "n")
        await pilot.pause()
        shown = screen_text(app)
        assert '"␣ran"' in shown and "The fox ran" in shown and not screen.prompt.display
        await pilot.press("escape")
        await pilot.pause()
        assert screen.prompt.display and "The fox ran" in screen_text(app)

    play(monkeypatch, *FOX, finish())
    with_dashboard(body, "generate", scripted_model(), (60, 16))


def test_a_branch_to_the_end_of_the_text_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    async def body(app: SlimApp, pilot: Pilot[Any]) -> None:
        screen = await write(app, pilot)
        await pilot.press("escape", "right", "enter", "enter")
        await pilot.pause()
        assert screen.text.text == "The fox" and len(script.asked) == 1
        assert "<|endoftext|> ends a text" in screen_text(app)

    fox = token(" fox", 0.5, 0, ((" fox", 0.5), ("<|endoftext|>", 0.4)))
    script = play(monkeypatch, fox, finish())
    with_dashboard(body, "generate", scripted_model())


def test_going_on_and_writing_again(monkeypatch: pytest.MonkeyPatch) -> None:
    async def body(app: SlimApp, pilot: Pilot[Any]) -> None:
        screen = await write(app, pilot)
        script.events = [token(" It", 0.5, 0), finish("eos")]
        await pilot.press("ctrl+g")
        await until(pilot, lambda: len(script.asked) == 2 and screen.writing is None)
        assert screen.text.text == "The fox ran home. It"
        assert script.asked[1].ids[3:] == [id_of(one.text) for one in FOX]
        assert script.asked[1].config.seed == 11, "it goes on with the numbers it began with"
        script.events = [token(" fox", 0.5), end, finish("eos", kept=len(" fox"))]
        await pilot.press("ctrl+r")
        await until(pilot, lambda: len(script.asked) == 3 and screen.writing is None)
        assert screen.text.text == "The fox" and script.asked[2].config.seed is None
        await pilot.press("ctrl+g")
        assert len(script.asked) == 3 and "nothing follows" in screen_text(app)

    end = dataclasses.replace(token("", 0.5), token_id=0)

    script = play(monkeypatch, *FOX, finish())
    with_dashboard(body, "generate", scripted_model())


def test_the_prompt_is_scored(monkeypatch: pytest.MonkeyPatch) -> None:
    async def body(app: SlimApp, pilot: Pilot[Any]) -> None:
        screen = screen_of(app)
        screen.prompt.text = "The fox"
        await pilot.press("ctrl+t")
        await until(pilot, lambda: len(screen.logprobs) == 2 and screen.writing is None)
        assert screen.text.text == "The fox" and "1.250 bits/byte" in screen_text(app)
        await pilot.press("escape", "n")
        assert screen.text.selected is not None and screen.text.selected.text == " fox"

    def score(model: Any, tokenizer: Any, text: bytes, n_alternatives: int) -> Any:
        assert text == b"The fox"
        yield token("The", 0.5)
        yield token(" fox", 0.01, 1)
        yield TextScored(2, 7, 0.1, 10.0, 1.25)

    monkeypatch.setattr("slim.score.score", score)
    with_dashboard(body, "generate", scripted_model())


def test_settings_are_checked_and_moved_by_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    async def body(app: SlimApp, pilot: Pilot[Any]) -> None:
        screen = screen_of(app)
        field = screen.query_one("#temperature")
        field.focus()
        await pilot.press("up", "down", "down")
        settings = screen.query_one(SamplerSettings)
        assert settings.config().temperature == 0.7
        screen.query_one("#top_k").focus()
        await pilot.press("down")
        assert settings.config().top_k == 0, "not below what makes sense"
        await pilot.press("up")
        assert settings.config().top_k == 10
        screen.query_one("#seed").focus()
        await pilot.press("up", "up")
        assert settings.config().seed == 1
        await pilot.press("down", "down")
        assert settings.config().seed is None
        screen.query_one("#stop_confidence").focus()
        await pilot.press("up")
        assert settings.config().stop_confidence == "off"
        for bad in ("nonsense", "1e999", "-3", "nan"):
            screen.query_one("#top_p").value = bad
            await pilot.press("enter")
            await pilot.pause()
            assert not script.asked and "top" in str(screen.text.border_subtitle)
            assert screen.query_one("#top_p").has_class("-wrong")
        screen.query_one("#top_p").value = "0.5"
        await pilot.press("enter")
        await until(pilot, lambda: bool(script.asked))
        assert script.asked[0].config.top_p == 0.5

    script = play(monkeypatch, finish())
    with_dashboard(body, "generate", scripted_model())


def test_an_error_is_told_and_the_screen_lives_on(monkeypatch: pytest.MonkeyPatch) -> None:
    async def body(app: SlimApp, pilot: Pilot[Any]) -> None:
        screen = await write(app, pilot)
        assert "the prompt has 9 tokens" in str(screen.text.border_subtitle)
        assert not screen.text.writing
        script.events = [Note("careful\x1b[2J"), FOX[0], finish()]
        await write(app, pilot)
        assert screen.text.text == "The fox"

    script = play(monkeypatch, UsageError("the prompt has 9 tokens: \x1b[2Jshorten it"))
    with_dashboard(body, "generate", scripted_model())


def test_training_waits_while_a_text_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[int] = []

    def training() -> Any:
        while True:
            steps.append(len(steps))
            yield Note("")

    async def body(app: SlimApp, pilot: Pilot[Any]) -> None:
        job = app.session.engine.submit(training())
        monkeypatch.setattr(type(app.session), "training_job", property(lambda self: job))
        screen = screen_of(app)
        await pilot.press("T", "enter")
        await until(pilot, lambda: "fox" in screen.text.text)
        assert job.held and "training waits" in screen_text(app)
        at = len(steps)
        job.pause()
        job.resume()  # as space on the monitor does: the text stays one of one version of the weights
        job.poll()
        await pilot.pause(0.05)
        assert len(steps) == at
        await pilot.press("escape")
        await until(pilot, lambda: screen.writing is None)
        assert not job.held
        job.pause()  # by the person: that stays
        script.events = [FOX[0], finish()]
        await write(app, pilot)
        assert job.paused and not job.held

    script = play(monkeypatch, FOX[0], "wait")
    with_dashboard(body, "generate", scripted_model())


def test_hostile_prompt_name_and_model(monkeypatch: pytest.MonkeyPatch) -> None:
    evil = "\x1b]0;x\x07[bold]\u202e\u200b\x9b2J"

    async def body(app: SlimApp, pilot: Pilot[Any]) -> None:
        screen = await write(app, pilot, evil + "日本")
        await pilot.press("escape", "right")
        await pilot.pause()
        assert "[bold]" in screen.text.text
        for strip in app.screen._compositor.render_strips():
            assert not any(
                ord(character) < 32 or 0x7F <= ord(character) < 0xA0 or character in "\u202e\u200b"
                for character in strip.text
            )

    play(monkeypatch, token(evil, 0.5, 0, ((evil, 0.5), (evil + "2", 0.2))), finish())
    with_dashboard(body, "generate", scripted_model(evil), (120, 40))


def test_with_a_real_model(tiny_model: Path) -> None:
    """Every key on random bytes, and the same seed gives the same text."""

    async def body(app: SlimApp, pilot: Pilot[Any]) -> None:
        screen = screen_of(app)
        screen.query_one("#seed").value = "7"
        screen.query_one("#max_tokens").value = "20"
        screen.query_one("#stop_confidence").value = "off"
        await write(app, pilot, "abc")
        first = screen.text.text
        assert len(screen.logprobs) == 20 and len(first) >= 3
        await write(app, pilot, "abc")
        assert screen.text.text == first
        await pilot.press(
            "escape", "c", "c", "c", "c", "b", "n", "N", "right", "enter", "down", "enter"
        )
        await until(pilot, lambda: screen.writing is None)
        await pilot.press("g")
        await until(pilot, lambda: screen.writing is None)
        screen.prompt.text = "x" * 100
        await pilot.press("ctrl+r")
        await until(pilot, lambda: screen.writing is None)
        assert "the model reads at most" in str(screen.text.border_subtitle)

    model, tokenizer, metadata = call(lambda: load_model(tiny_model))
    with_dashboard(body, "generate", OpenModel(model, tokenizer, metadata, tiny_model))


def test_words_of_the_inspector() -> None:
    def of(*shares: float) -> str:
        return verdict(token("a", 0.5, 0, tuple((chr(97 + i), p) for i, p in enumerate(shares))))

    assert of(0.9, 0.05) == "sure"
    assert of(0.5, 0.4) == "torn between two"
    assert of(0.7, 0.1) == "fairly sure"
    assert of(0.1, 0.1, 0.1) == "broadly unsure"
    assert of(0.4, 0.1, 0.1, 0.1) == "several would fit"
    assert of() == ""
    assert [probability(p) for p in (1.0, 0.999, 0.43, 0.01, 0.0022, 0.0)] == [
        *("1.0", ".99", ".43", ".01", ".002", ".000"),
    ]
    assert bar(0.5, 4) == "██  " and bar(1.0, 4) == "████" and bar(0.03, 4) == "▏   "
    assert bar(0.5, 4, True) == "##  "
    assert visible(" a\n\x1b") == "␣a⏎␛" and visible(" a\n", True) == "_a\\n"
    assert Inspector().render().plain.startswith("Arrow keys")
