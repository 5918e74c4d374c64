"""A scroll bar without characters: whole cells of colour, for terminals that have no more than ASCII."""

from __future__ import annotations

from typing import ClassVar

from textual.scrollbar import ScrollBar, ScrollBarRender


class PlainScrollBar(ScrollBarRender):
    """Ends on whole cells."""

    VERTICAL_BARS: ClassVar[list[str]] = [" "] * 8
    HORIZONTAL_BARS: ClassVar[list[str]] = [" "] * 8


def use_plain_scroll_bars(plain: bool) -> None:
    """How all scroll bars of this process are drawn from now on."""
    ScrollBar.renderer = PlainScrollBar if plain else ScrollBarRender
