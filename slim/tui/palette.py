"""Textual's palette for a quick hand: answered twice, or paged before its list has been laid out, it would end the app."""

from __future__ import annotations

import contextlib

from textual.await_complete import AwaitComplete
from textual.command import CommandPalette


class Palette(CommandPalette):
    """Closes once, and only where it lies on top."""

    def dismiss(self, result: None = None) -> AwaitComplete:
        """Nothing where it is closed already."""
        return super().dismiss(result) if self.app.screen is self else AwaitComplete.nothing()

    def _action_command_list(self, action: str) -> None:
        with contextlib.suppress(KeyError):  # of a line that there is not yet
            super()._action_command_list(action)
