"""safe_text over every code point: what is dangerous is shown, what is text stays."""

from __future__ import annotations

import sys
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slim.safe_text import HIDDEN, NEW_LINE, REPLACEMENT, TURN, safe_line, safe_text

EVERY_CODE_POINT = [chr(code) for code in range(sys.maxunicode + 1)]
# Visible although Unicode calls them format characters: signs that embrace a number, hieroglyph joiners.
VISIBLE_FORMAT = {
    *(*range(0x0600, 0x0606), 0x06DD, 0x070F, 0x0890, 0x0891, 0x08E2, 0x110BD, 0x110CD),
    *range(0x13430, 0x13440),
}
BIDI_CLASSES = {"LRE", "LRO", "RLE", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}


def test_every_code_point_is_kept_or_replaced_by_one_visible_character() -> None:
    pictures = {REPLACEMENT, NEW_LINE, TURN, HIDDEN, *map(chr, range(0x2400, 0x2422))}
    for character in EVERY_CODE_POINT:
        shown = safe_text(character)
        code = ord(character)
        category = unicodedata.category(character)
        dangerous = (
            (category == "Cc" and character not in "\n\t")
            or category in ("Cs", "Zl", "Zp")
            or (category == "Cf" and code not in VISIBLE_FORMAT)
            or unicodedata.bidirectional(character) in BIDI_CLASSES
        )
        assert len(shown) == 1, hex(code)
        if dangerous:
            assert shown in pictures, hex(code)
        elif shown != character:
            # No danger by its category, but a terminal shows nothing.
            assert category in ("Mn", "Lo", "Cn"), hex(code)


def test_the_pictures_are_visible_and_stay_what_they_are() -> None:
    for picture in (REPLACEMENT, NEW_LINE, TURN, HIDDEN, "\u241b"):
        assert picture.isprintable() and safe_text(picture) == picture
        assert unicodedata.east_asian_width(picture) not in ("W", "F")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[2J\x1b]0;title\x07", "␛[2J␛]0;title␇"),
        ("back\b\rspace\x7f", "back␈␍space␡"),
        ("\x9b31m", f"{REPLACEMENT}31m"),
        ("a\u202eb\u2066c", f"a{TURN}b{TURN}c"),
        ("zero\u200bwidth\ufeff", f"zero{HIDDEN}width{HIDDEN}"),
        ("\ud800x\udcff", f"{REPLACEMENT}x{REPLACEMENT}"),
        ("one\u2028two\u2029", f"one{NEW_LINE}two{NEW_LINE}"),
        ("\U000e0041", HIDDEN),
        ("kept\n\tas it is: äß漢字 👩 ❤\ufe0f é", "kept\n\tas it is: äß漢字 👩 ❤\ufe0f é"),
        ("", ""),
    ],
)
def test_examples(text: str, shown: str) -> None:
    assert safe_text(text) == shown


def test_the_result_can_be_encoded_and_has_no_other_line_breaks() -> None:
    shown = safe_text("".join(EVERY_CODE_POINT))
    shown.encode("utf-8")
    assert shown.splitlines() == shown.split("\n")


@given(st.text(st.characters()), st.integers(0, 200))
def test_a_cut_anywhere_changes_nothing(text: str, place: int) -> None:
    assert safe_text(text[:place]) + safe_text(text[place:]) == safe_text(text)
    assert safe_text(safe_text(text)) == safe_text(text)


def test_a_line_is_one_line() -> None:
    assert safe_line("  a\n\n b\tc\x1b\x85d ") == "a b c␛ d"
