"""The Chat screen under the pilot: turns, their marks, what goes wrong, and training that waits."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from textual.pilot import Pilot

from scripted import screen_text, scripted_model, until, with_dashboard
from slim.compute import call
from slim.confidence import TokenConfidence
from slim.decoding import DrawnToken
from slim.model_file import load_model
from slim.tokenizer import Tokenizer
from slim.tui.app import SlimApp
from slim.tui.chat_screen import ChatScreen
from slim.tui.session import OpenModel

EOS, END = 0, 3
LONG = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"


class Parrot:
    """Stands in for `draw_tokens`: says the next of its replies, a byte a token, with p = .5 each, then ends."""

    def __init__(self, *replies: str) -> None:
        self.replies = list(replies)
        self.read: list[list[int]] = []
        self.slow = False
        self.end = END

    def __call__(
        self, model: Any, cache: Any, ids: Any, *args: Any, **named: Any
    ) -> Iterator[DrawnToken]:
        self.read.append(ids.tolist())
        confidence = TokenConfidence(0.5, math.log(0.5), 0.3, 0, 0.1, ((4, 0.5), (5, 0.2)))
        for token_id in [*Tokenizer([]).encode(self.replies.pop(0)).tolist(), self.end]:
            if self.slow:
                time.sleep(0.05)
            cache.length += 1
            yield DrawnToken(token_id, 0.5, confidence)


def chatting(
    monkeypatch: pytest.MonkeyPatch, *replies: str, roles: bool = True
) -> tuple[Parrot, OpenModel]:
    parrot = Parrot(*replies)
    parrot.end = END if roles else EOS
    monkeypatch.setattr("slim.chat.draw_tokens", parrot)
    model = scripted_model("stories.bin", chat=roles)

    def new_cache() -> SimpleNamespace:
        cache = SimpleNamespace(length=0)
        cache.truncate = lambda length: setattr(cache, "length", length)
        return cache

    model.model.new_cache = new_cache  # type: ignore[method-assign, assignment]
    return parrot, model


def screen_of(app: SlimApp) -> ChatScreen:
    assert isinstance(app.screen, ChatScreen)
    return app.screen


async def say(app: SlimApp, pilot: Pilot[Any], text: str) -> ChatScreen:
    """Send a message and read the answer to its end."""
    screen = screen_of(app)
    screen.prompt.focus()
    screen.prompt.text = text
    await pilot.press("enter")
    await until(pilot, lambda: screen.writing is None)
    await pilot.pause()
    return screen


@pytest.mark.parametrize("size", [(80, 24), (120, 40)])
def test_turns_with_their_measures_and_the_context(
    monkeypatch: pytest.MonkeyPatch, size: tuple[int, int]
) -> None:
    async def body(app: SlimApp, pilot: Pilot[Any]) -> None:
        assert "Write a message below" in " ".join(screen_text(app).split())
        screen = await say(app, pilot, "Hi!")
        shown = " ".join(screen_text(app).replace("│", " ").split())
        assert "Hi!" in shown and "Hello." in shown
        assert "7 tokens" in shown and "typical p .50" in shown and "perplexity 2" in shown
        assert (
            "the text came to its end" in screen.text.flow.pieces[-1].text
            and "14 of 64 tokens" in shown
        )
        assert screen.text.text == "you\nHi!\n\nstories\nHello."
        assert screen.prompt.text == ""

    _, model = chatting(monkeypatch, "Hello.")
    with_dashboard(body, "chat", model, size)


def test_a_base_model_goes_on_with_one_text(monkeypatch: pytest.MonkeyPatch) -> None:
    async def body(app: SlimApp, pilot: Pilot[Any]) -> None:
        shown = " ".join(screen_text(app).replace("│", " ").split())
        assert "continues your text rather than answers" in shown
        screen = await say(app, pilot, "Once")
        await say(app, pilot, "there")
        assert screen.text.text == "Once upon\nthere was"
        assert "a base model" in screen_text(app)

    _, model = chatting(monkeypatch, " upon", " was", roles=False)
    with_dashboard(body, "chat", model)


def test_without_a_model() -> None:
    async def body(app: SlimApp, pilot: Pilot[Any]) -> None:
        assert "no model is open: o opens one" in screen_text(app)
        screen = screen_of(app)
        screen.prompt.text = "Hi"
        await pilot.press("enter", "ctrl+r", "ctrl+s")
        assert screen.writing is None and screen.prompt.text == "Hi", "what was typed is not lost"

    with_dashboard(body, "chat", None)


def test_retry_and_edit_replace_the_last_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    async def body(app: SlimApp, pilot: Pilot[Any]) -> None:
        screen = await say(app, pilot, "One")
        await say(app, pilot, "Two")
        await pilot.press("ctrl+r")
        await until(pilot, lambda: screen.text.text.endswith("c.") and screen.writing is None)
        assert screen.text.text == "you\nOne\n\nstories\na.\nyou\nTwo\n\nstories\nc."
        await pilot.press("up")
        assert screen.prompt.text == "Two" and "to be changed" in screen_text(app)
        await pilot.press("escape", "escape")
        assert screen.prompt.text == "" and not screen.editing
        await pilot.press("e")
        assert screen.prompt.text == "Two" and screen.prompt.has_focus
        await pilot.press("!", "enter")
        await until(pilot, lambda: screen.text.text.endswith("d.") and screen.writing is None)
        assert screen.text.text == "you\nOne\n\nstories\na.\nyou\nTwo!\n\nstories\nd."
        assert screen.chat is not None
        assert [turn.text for turn in screen.chat.turns] == ["One", "a.", "Two!", "d."]
        await pilot.press("ctrl+l")
        assert screen.text.text == "" and screen.chat.turns == ()

    _, model = chatting(monkeypatch, "a.", "b.", "c.", "d.")
    with_dashboard(body, "chat", model)


def test_what_does_not_fit_comes_back_into_the_field(monkeypatch: pytest.MonkeyPatch) -> None:
    async def body(app: SlimApp, pilot: Pilot[Any]) -> None:
        screen = await say(app, pilot, "One")
        before = screen.text.text
        await say(app, pilot, "x" * 100)
        assert screen.text.text == before and screen.prompt.text == "x" * 100
        assert "shorten it" in " ".join(screen_text(app).split())
        screen.prompt.text = ""
        await pilot.press("up")
        screen.prompt.text = "y" * 100
        await pilot.press("enter")
        await until(pilot, lambda: screen.writing is None and screen.prompt.text != "")
        assert screen.text.text == before, "an edit that fails leaves the turns as they were"
        assert screen.prompt.text == "y" * 100
        await say(app, pilot, "Two")
        assert screen.text.text == before + "\nyou\nTwo\n\nstories\nb."

    _, model = chatting(monkeypatch, "a.", "b.")
    with_dashboard(body, "chat", model)


def test_a_reply_is_stopped_and_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    async def body(app: SlimApp, pilot: Pilot[Any]) -> None:
        screen = screen_of(app)
        screen.prompt.text = "Hi"
        await pilot.press("enter")
        await until(pilot, lambda: LONG[:3] in screen.text.text)
        await pilot.press("enter", "ctrl+r", "ctrl+s")
        await pilot.pause()
        assert any("still writing" in one.message for one in app._notifications)
        shown = len(screen.logprobs)
        await pilot.press("escape")
        await until(pilot, lambda: screen.writing is None)
        assert len(screen.logprobs) - shown <= 16
        assert screen.chat is not None and screen.chat.turns[-1].text.startswith(LONG[:3])
        assert "interrupted" in screen_text(app)

    parrot, model = chatting(monkeypatch, LONG)
    parrot.slow = True
    with_dashboard(body, "chat", model)


def test_a_long_transcript_loses_its_oldest_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that the model no longer sees; all of them are still saved, and the last one can be answered again."""
    monkeypatch.setattr("slim.tui.chat_screen.MOST_PIECES", 150)

    async def body(app: SlimApp, pilot: Pilot[Any]) -> None:
        for number in range(9):
            screen = await say(app, pilot, f"message {number}")
            assert len(screen.text.flow.pieces) <= 150 and screen.chat is not None
        shown = screen.text.text
        assert "message 8" in shown and "message 0" not in shown
        assert "ctrl+s saves all of it" in screen.text.flow.pieces[0].text
        pieces = screen.text.flow.pieces
        headings = [i for i, piece in enumerate(pieces) if piece.kind == "heading"]
        assert screen._marks == headings and len(headings) + screen._gone == 18
        assert screen.text.forgotten == screen._marks[screen.chat.left - screen._gone]
        await pilot.press("ctrl+r")
        await until(pilot, lambda: screen.writing is None and "another" in screen.text.text)
        assert screen.text.text.count("message 8") == 1
        await pilot.press("ctrl+s")
        saved = app.folder / "stories-chat.txt"
        await until(pilot, saved.exists)
        assert all(f"message {number}" in saved.read_text() for number in range(9))

    _, model = chatting(monkeypatch, *[LONG[:40]] * 9, "another")
    with_dashboard(body, "chat", model)


def test_turns_that_left_the_context_are_marked(monkeypatch: pytest.MonkeyPatch) -> None:
    async def body(app: SlimApp, pilot: Pilot[Any]) -> None:
        screen_of(app).query_one("#max_tokens").value = "20"
        for i in range(3):
            screen = await say(app, pilot, f"number {i} " + "." * 10)
        assert screen.chat is not None and screen.chat.left > 0
        assert screen.text.forgotten == screen._marks[screen.chat.left] > 0
        shown = screen_text(app)
        assert "left it" in shown
        await pilot.press("escape", "home")
        await pilot.pause()
        assert "┊ you" in screen_text(app)

    _, model = chatting(monkeypatch, "aaaa", "bbbb", "cccc")
    with_dashboard(body, "chat", model)


def test_training_waits_for_the_reply_and_a_badge_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    async def body(app: SlimApp, pilot: Pilot[Any]) -> None:
        def training() -> Iterator[int]:
            for step in range(10**9):
                time.sleep(0.001)
                yield step

        job = app.session.engine.submit(training())
        monkeypatch.setattr(type(app.session), "training_job", property(lambda self: job))
        screen = screen_of(app)
        screen.prompt.text = "Hi"
        await pilot.press("enter")
        await until(pilot, lambda: LONG[:3] in screen.text.text)
        assert job.held and "training waits at step" in screen_text(app)
        await pilot.press("escape")
        await until(pilot, lambda: screen.writing is None)
        assert not job.held and "training waits" not in screen_text(app)
        job.cancel(wait=False)

    parrot, model = chatting(monkeypatch, LONG)
    parrot.slow = True
    with_dashboard(body, "chat", model)


def test_a_model_in_training_reads_everything_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    async def body(app: SlimApp, pilot: Pilot[Any]) -> None:
        await say(app, pilot, "One")
        await say(app, pilot, "Two")

    parrot, model = chatting(monkeypatch, "a", "b", roles=False)
    with_dashboard(body, "chat", OpenModel(model.model, model.tokenizer, {}, None))
    assert len(parrot.read[1]) > len(parrot.read[0]) + len("Two"), "the first turns too"


def test_the_conversation_is_saved_as_text(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    async def body(app: SlimApp, pilot: Pilot[Any]) -> None:
        await pilot.press("ctrl+s")
        assert "nothing to save yet" in screen_text(app)
        await say(app, pilot, "Hi")
        await pilot.press("ctrl+s", "ctrl+s")
        await pilot.pause()
        names = sorted(path.name for path in tmp_path.iterdir())
        assert names == ["stories-chat-2.txt", "stories-chat.txt"]
        assert (tmp_path / names[0]).read_text() == "User: Hi\nAssistant: Hello.\n"
        await pilot.press("escape", "y")
        assert app.clipboard == "you\nHi\n\nstories\nHello."

    _, model = chatting(monkeypatch, "Hello.")
    with_dashboard(body, "chat", model, folder=tmp_path)


def test_sampler_is_shown_where_there_is_no_room_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    async def body(app: SlimApp, pilot: Pilot[Any]) -> None:
        settings = screen_of(app).query_one("SamplerSettings")
        assert not settings.display
        await pilot.press("ctrl+t")
        assert settings.display and "temp" in screen_text(app)
        await pilot.resize_terminal(120, 40)
        await pilot.press("ctrl+t")
        await pilot.pause()
        assert settings.display

    _, model = chatting(monkeypatch)
    with_dashboard(body, "chat", model)


def test_letters_act_only_outside_of_the_field(monkeypatch: pytest.MonkeyPatch) -> None:
    async def body(app: SlimApp, pilot: Pilot[Any]) -> None:
        screen = await say(app, pilot, "Hi")
        mode = screen.text.mode
        await pilot.press("c", "s", "e", "1", "ctrl+j", "n")
        assert screen.prompt.text == "cse1\nn" and screen.text.mode == mode
        await pilot.press("escape", "c")
        assert screen.text.mode != mode

    _, model = chatting(monkeypatch, "Hello.")
    with_dashboard(body, "chat", model)


def test_hostile_words_from_both_sides(monkeypatch: pytest.MonkeyPatch) -> None:
    evil = "\x1b]0;x\x07[bold]\u202e\u200b"

    async def body(app: SlimApp, pilot: Pilot[Any]) -> None:
        await say(app, pilot, evil)
        await pilot.press("up")
        await pilot.pause()
        for strip in app.screen._compositor.render_strips():
            assert not any(
                ord(character) < 32 or 0x7F <= ord(character) < 0xA0 or character in "\u202e\u200b"
                for character in strip.text
            )
        assert "[bold]" in screen_text(app)

    _, model = chatting(monkeypatch, evil)
    with_dashboard(body, "chat", model)


def test_with_a_real_model(tiny_model: Path) -> None:
    async def body(app: SlimApp, pilot: Pilot[Any]) -> None:
        screen_of(app).query_one("#max_tokens").value = "8"
        for text in ("abc", "def", "ghi " * 8):
            screen = await say(app, pilot, text)
        assert screen.chat is not None and len(screen.chat.turns) == 6
        await pilot.press("ctrl+r")
        await until(pilot, lambda: screen.writing is None)
        await pilot.press("escape", "n", "left", "enter", "down", "enter", "escape", "c", "b")
        assert screen.writing is None, "an alternative cannot be branched from here"

    model, tokenizer, metadata = call(lambda: load_model(tiny_model))
    with_dashboard(body, "chat", OpenModel(model, tokenizer, metadata, tiny_model))
