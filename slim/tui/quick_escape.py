"""Lets Escape act as soon as Textual's ESCDELAY allows.

Escape may be the beginning of another key, so Textual waits ESCDELAY for more. But it looks at the clock only when its
thread wakes up, and that sleeps for 100 ms, whatever the delay. So after every input the next sleep is as long as the delay.
"""

from __future__ import annotations

import selectors
import types
from typing import Any

from textual import constants


class _Selector(selectors.SelectSelector):
    """One that sleeps shortly after there was something to read."""

    _was_read = False

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if self._was_read and timeout is not None:
            timeout = min(timeout, constants.ESCAPE_DELAY)
        found = super().select(timeout)
        self._was_read = bool(found)
        return found


def use_quick_escape() -> None:
    """For all drivers that are started from here on, where they wait in the way that Textual's own one does."""
    try:
        from textual.drivers import linux_driver
    except ImportError:  # Windows
        return
    module: Any = linux_driver
    if getattr(module, "selectors", None) is selectors:
        names = {**vars(selectors), "SelectSelector": _Selector}
        module.selectors = types.SimpleNamespace(**names)
