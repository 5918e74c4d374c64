"""Text that a terminal shows and never obeys.

A byte-level model emits ESC by itself in its first steps, and file names, models and chat partners are
a stranger's text. Every character that could move the cursor, turn the line around or hide is replaced
by one visible character, so that a text keeps its length and no cut of a stream can matter. Decode
UTF-8 incrementally before.
"""

from __future__ import annotations

import os

REPLACEMENT = (
    "\ufffd"  # lone surrogates (bytes that were no UTF-8) and C1 controls, which have no picture
)
NEW_LINE = "\u2424"  # the line separators that are not \n
TURN = "\u21c4"  # bidi controls
HIDDEN = "\u25cc"  # characters that a terminal shows as nothing

_KEPT = (0x09, 0x0A)
_BIDI = ((0x061C, 0x061C), (0x200E, 0x200F), (0x202A, 0x202E), (0x2066, 0x2069))
# Unicode's Default_Ignorable_Code_Point and the interlinear annotation marks. Variation selectors
# (U+180B-180D, U+180F, U+FE00-FE0F) stay: they choose between two visible forms.
_HIDDEN = (
    *((0x00AD, 0x00AD), (0x034F, 0x034F), (0x115F, 0x1160), (0x17B4, 0x17B5), (0x180E, 0x180E)),
    *((0x200B, 0x200D), (0x2060, 0x2065), (0x206A, 0x206F), (0x3164, 0x3164), (0xFEFF, 0xFEFF)),
    *((0xFFA0, 0xFFA0), (0xFFF0, 0xFFFB), (0x1BCA0, 0x1BCA3), (0x1D173, 0x1D17A)),
    (0xE0000, 0xE0FFF),
)


def _table() -> dict[int, str]:
    table = {code: chr(0x2400 + code) for code in range(0x20) if code not in _KEPT}
    table[0x7F] = "\u2421"
    table.update(dict.fromkeys(range(0x80, 0xA0), REPLACEMENT))
    table.update(dict.fromkeys(range(0xD800, 0xE000), REPLACEMENT))
    table.update(dict.fromkeys((0x2028, 0x2029), NEW_LINE))
    for ranges, picture in ((_BIDI, TURN), (_HIDDEN, HIDDEN)):
        for first, last in ranges:
            table.update(dict.fromkeys(range(first, last + 1), picture))
    return table


_TABLE = _table()


def safe_text(text: str) -> str:
    """The text with everything but \\n and \\t that is no visible character replaced, one for one."""
    return text if text.isascii() and text.isprintable() else text.translate(_TABLE)


def safe_line(text: str) -> str:
    """A text for one line of a display: runs of white space, line breaks too, are one space."""
    return safe_text(" ".join(text.split()))


def path_in_words(path: str) -> str:
    """A path for JSON and for model files, where bytes that are no UTF-8 have no place."""
    return os.fsencode(path).decode("utf-8", "replace")
