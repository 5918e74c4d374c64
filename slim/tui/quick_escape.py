"""How Textual's thread that reads the terminal waits: so that Escape acts as soon as ESCDELAY allows, and not for ever.

Escape may be the beginning of another key, so Textual waits ESCDELAY for more. But it looks at the clock only when its
thread wakes up, and that sleeps for 100 ms, whatever the delay. So after every input the next sleep is as long as the delay.

The same thread would look for input without a rest where the terminal is gone and nobody has said so by SIGHUP, as happens to
a process that has no terminal to be controlled by. It is said here.
"""

from __future__ import annotations

import os
import select
import selectors
import signal
import time
import types
from typing import Any

from textual import constants


class _Selector(selectors.SelectSelector):
    """One that sleeps shortly after there was something to read."""

    _was_read = False
    _was_told = False

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if self._was_read and timeout is not None:
            timeout = min(timeout, constants.ESCAPE_DELAY)
        found = super().select(timeout)
        self._was_read = bool(found)
        if found and self._is_gone():
            if not self._was_told:
                self._was_told = True
                os.kill(os.getpid(), signal.SIGHUP)
            time.sleep(timeout or 0.0)
            return []
        return found

    def _is_gone(self) -> bool:
        """Whether nobody is at the other end of what is read."""
        poll = select.poll()
        for key in self.get_map().values():
            poll.register(key.fd, 0)  # the end is told whatever is asked for
        return any(what & select.POLLHUP for _, what in poll.poll(0))


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
