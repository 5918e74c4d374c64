"""Text that is broken into lines while it arrives: however it is cut, no line is too long and no word is lost."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from slim.cli.wrapped import WrappedText


def shown(pieces: list[str], width: int, indent: int = 0) -> str:
    """All that is written for text that comes in these pieces."""
    written: list[str] = []
    page = WrappedText(written.append, width, indent)
    for piece in pieces:
        page.push(piece)
    page.close()
    return "".join(written)


def test_lines_break_between_words() -> None:
    assert shown(["The fox sa", "w a bird"], 9) == "The fox\nsaw a\nbird\n"
    assert shown(["The fox saw a bird"], 11, indent=2) == "  The fox\n  saw a\n  bird\n"


def test_a_word_appears_when_it_is_whole() -> None:
    written: list[str] = []
    page = WrappedText(written.append, 20)
    page.push("The fo")
    assert written[-1].endswith("The")
    page.push("x ")
    assert "".join(written) == "The fox"


def test_line_breaks_of_the_text_stay() -> None:
    assert shown(["One.\n\nTwo.\n"], 20) == "One.\n\nTwo.\n"
    assert shown([], 20) == ""


@pytest.mark.parametrize("word", ["x" * 30, "日" * 15, "ab" + "日" * 9])
def test_a_word_that_no_line_holds_is_cut(word: str) -> None:
    lines = shown(["so ", word, " it is"], 9, indent=2).splitlines()
    assert all(cell_len(line) <= 9 for line in lines)
    assert word in "".join(line.strip() for line in lines)


def test_blanks_that_no_line_holds_are_cut() -> None:
    assert shown([" " * 50 + "end"], 10) == " " * 7 + "end\n"


texts = st.text(st.sampled_from("ab é日👩 \t\n.,"), max_size=120)


@given(texts, st.lists(st.integers(0, 120), max_size=8), st.integers(4, 30), st.integers(0, 2))
def test_any_text_in_any_pieces(text: str, cuts: list[int], width: int, indent: int) -> None:
    places = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    pieces = [text[a:b] for a, b in pairwise(places)]
    found = shown(pieces, width, indent)
    assert found == shown([text], width, indent)
    assert all(cell_len(line) <= width for line in found.split("\n"))
    assert "".join(found.split()) == "".join(text.split())


def test_marks_take_no_room_and_stay_in_order() -> None:
    pieces = ["\x1b[1mThe\x1b[0m", "\x1b[4m fox sa\x1b[0m", "\x1b[1mw\x1b[0m", "\x1b[4m a\x1b[0m"]
    found = shown(pieces, 9)
    assert found.startswith("\x1b[1mThe\x1b[0m\x1b[4m fox")
    marks = re.compile(r"\x1b\[[0-9;]*m")
    assert marks.sub("", found) == "The fox\nsaw a\n"
    assert marks.findall(found) == marks.findall("".join(pieces))


def test_a_line_may_break_before_a_wide_character() -> None:
    assert shown(["ab 日本語で"], 8) == "ab 日本\n語で\n"


def test_flush_leaves_the_line_open() -> None:
    written: list[str] = []
    page = WrappedText(written.append, 20)
    page.push("The fox ")
    page.flush()
    assert "".join(written) == "The fox"
