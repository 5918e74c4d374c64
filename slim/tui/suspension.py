"""Being stopped and going on: by ctrl+z of a shell, or from outside, when nobody asks first.

Textual prepares for SIGTSTP only. After a plain SIGSTOP its SIGCONT would start a second reader of the keyboard beside the
first, and leaving would wait for the first one for ever.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from types import FrameType
from typing import TYPE_CHECKING, Any

from slim.operating_system import CONTINUE_SIGNAL, SUSPEND_SIGNAL

if TYPE_CHECKING:
    from textual.app import App
    from textual.driver import Driver


class Suspension:
    """Takes the place of the driver's handlers, in the event loop's thread, until `end`."""

    def __init__(self, app: App[Any], driver: Driver) -> None:
        self._app, self._driver = app, driver
        self._prepared = False
        self._suspend = self._resume = None
        if SUSPEND_SIGNAL is None or CONTINUE_SIGNAL is None or not driver.can_suspend:
            return
        self._suspend = signal.getsignal(SUSPEND_SIGNAL)
        self._resume = signal.getsignal(CONTINUE_SIGNAL)
        if callable(self._suspend) and callable(self._resume):
            signal.signal(SUSPEND_SIGNAL, self._on_suspend)
            asyncio.get_running_loop().add_signal_handler(CONTINUE_SIGNAL, self._on_continue)

    def _on_suspend(self, number: int, frame: FrameType | None) -> None:
        self._prepared = True
        if callable(self._suspend):
            self._suspend(number, frame)  # gives the terminal back, and stops

    def _on_continue(self) -> None:
        if not self._prepared:
            self._driver.suspend_application_mode()
        self._prepared = False
        if callable(self._resume):
            self._resume(CONTINUE_SIGNAL, None)  # type: ignore[arg-type]
        self._app.refresh(layout=True)

    def end(self) -> None:
        """What is left of it is the driver's."""
        if CONTINUE_SIGNAL is not None and callable(self._resume):
            with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):
                asyncio.get_running_loop().remove_signal_handler(CONTINUE_SIGNAL)
