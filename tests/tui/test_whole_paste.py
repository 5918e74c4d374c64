"""What was pasted is one text, whatever is in it, however it arrives."""

from __future__ import annotations

import sys

import pytest
from textual import events

from slim.tui.whole_paste import BEGIN, END, SIGN, PasteParser, use_whole_pastes

PASTED = "a\x01\x1b[31mred\x07 b\rline2\ttab \x1b[113;5u\x1b[20\x1b"
SHOWN = PASTED.replace("\x1b", SIGN)


def read(*parts: str) -> list[tuple[str, str]]:
    parser, found = PasteParser(), []
    for part in parts:
        for event in parser.feed(part):
            if isinstance(event, events.Paste):
                found.append(("paste", event.text))
            elif isinstance(event, events.Key):
                found.append(("key", event.key))
    return found


def test_a_paste_is_one_text_and_nothing_of_it_is_a_key() -> None:
    whole = f"x{BEGIN}{PASTED}{END}\x1b[Ay{BEGIN}\x1bq{END}z"
    after = [("key", "up"), ("key", "y"), ("paste", SIGN + "q"), ("key", "z")]
    assert read(whole) == [("key", "x"), ("paste", SHOWN), *after]


def test_wherever_it_is_cut() -> None:
    whole = f"x{BEGIN}{PASTED}{END}y"
    expected = [("key", "x"), ("paste", SHOWN), ("key", "y")]
    for at in range(1, len(whole)):
        assert read(whole[:at], whole[at:]) == expected, at
    assert read(*whole) == expected


def test_keys_are_not_held_back() -> None:
    parser = PasteParser()
    assert [event.key for event in parser.feed("\x1b[A") if isinstance(event, events.Key)] == ["up"]
    assert list(parser.feed("\x1b")) == []
    assert list(parser.feed("")) and parser.is_eof, "an escape at the end is a key"


@pytest.mark.skipif(sys.platform == "win32", reason="another driver")
def test_the_driver_reads_with_it() -> None:
    from textual.drivers import linux_driver

    use_whole_pastes()
    assert linux_driver.XTermParser is PasteParser  # type: ignore[attr-defined]
