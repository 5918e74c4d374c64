"""A field of one line whose value may be anybody's text, such as the name of a file."""

from __future__ import annotations

from rich.cells import cell_len
from rich.text import Text
from textual.widgets import Input

from slim.safe_text import safe_text

# A name may hold line breaks and tabs, which a field of one line has no room for.
_ONE_LINE = {0x09: "\u2409", 0x0A: "\u240a"}


class SafeInput(Input):
    """Its value stays as it is, but what it shows is only what a terminal may see: Textual's own hands on ESC and bidi."""

    @property
    def _value(self) -> Text:
        return Text(_shown(self.value), no_wrap=True, overflow="ignore", end="")

    def _position_to_cell(self, position: int) -> int:
        return cell_len(_shown(self.value[:position]))


def _shown(value: str) -> str:
    """As many characters, none of which a terminal obeys."""
    return safe_text(value).translate(_ONE_LINE)
