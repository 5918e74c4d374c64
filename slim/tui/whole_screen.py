"""A screen that draws whatever it was told to draw.

Textual puts a drawing off while it exchanges widgets, such as those of the line of keys, and when it comes to it counts all
widgets as drawn that have asked for it meanwhile, though it holds only those that had asked before. A field of the form that
was filled in at that moment went on showing what it had held before: in 3 of 100 first visits by a quick hand.
"""

from __future__ import annotations

from typing import TypeVar

from textual.screen import Screen

Result = TypeVar("Result")


class WholeScreen(Screen[Result]):
    """Base of all screens of the dashboard."""

    def _compositor_refresh(self) -> None:
        self._compositor.update_widgets(self._dirty_widgets)
        super()._compositor_refresh()
