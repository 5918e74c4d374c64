"""NO_COLOR: attributes say what colours say otherwise.

Textual's own filter for it sends greys, which are colours. Here what is set off by its background is reversed, underlined
too where that is a cursor's, what is faint is dim, and all else of a style stays.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

from rich.segment import Segment
from rich.style import Style
from textual.color import Color
from textual.filter import LineFilter

from slim.tui.confidence_text import contrast

SET_OFF = 1.12  # contrast of a background with the screen's: a panel or a cursor, not the surface of a line
STRONG = 3.0  # that of a cursor, which stands on a panel, too: reversed like that, and underlined
FAINT = 4.0  # contrast below which words are meant to step back


class Colourless(LineFilter):
    """Takes the colours out of lines; `screen_background` tells the theme's."""

    def __init__(self, screen_background: Callable[[], Color]) -> None:
        super().__init__()
        self._screen_background = screen_background

    def apply(self, segments: list[Segment], background: Color) -> list[Segment]:
        """The same text with attributes only."""
        screen = self._screen_background()
        return [
            Segment(text, None if style is None else colourless(style, screen), control)
            for text, style, control in segments
        ]


@lru_cache(4096)
def colourless(style: Style, screen: Color) -> Style:
    """A style without its colours, on a screen of this background."""
    front, back = (
        Color.from_rich_color(one) if one is not None and not one.is_default else None
        for one in (style.color, style.bgcolor)
    )
    set_off = back is not None and contrast(back, screen) >= SET_OFF
    strong = back is not None and contrast(back, screen) >= STRONG
    faint = front is not None and contrast(front, back or screen) < FAINT
    return style.without_color + Style(
        reverse=bool(style.reverse) != set_off, dim=True if faint else style.dim,
        underline=True if strong else style.underline, meta=style.meta, link=style.link,
    )
