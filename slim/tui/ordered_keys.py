"""Keys act in the order in which they were pressed, however busy the machine is.

Textual sends a key to what has the focus when it comes, where a text field takes letters at once, and looks for a binding
only when the key has come back up to the app. So of keys that come together, as from a quick hand while a model trains, a
letter overtakes the Tab or ctrl+u before it, and a path typed after `o` goes to the screen that `o` leaves. Here a key is
sent when the one before it has been dealt with: a message follows it through the same queues and comes back behind it.
"""

from __future__ import annotations

import time
from collections import deque
from typing import Any, TypeVar

from textual import events
from textual.app import App, ScreenStackError
from textual.message import Message
from textual.screen import Screen
from textual.widget import Widget

Result = TypeVar("Result")
PATIENCE = 0.3  # seconds for one key: what had it may be gone, and took the message with it
LAPS = 2  # what a key leads to may be said by another message: Enter in a field is one, `Submitted` the next


class OrderedKeys(App[Result]):
    """An app that deals with one key at a time; a pasted text counts as one."""

    class Dealt(Message):
        """What was sent before to those through whose queues this comes has been dealt with."""

        def __init__(self, number: int, lap: int) -> None:
            super().__init__()
            self.number, self.lap = number, lap

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self._waiting_keys: deque[events.Key | events.Paste] = deque()
        self._sent_keys = 0
        self._sent_key_at: float | None = None  # of the one that is being dealt with
        self._key_target: Widget | None = None
        self._key_screen: Screen[Any] | None = None

    async def on_event(self, event: events.Event) -> None:
        """Hold a key back while another is on its way."""
        if not isinstance(event, events.Key | events.Paste) or event.is_forwarded:
            await super().on_event(event)
        elif not self._has_screen():
            return
        elif not self._waiting_keys and self._patience_left() <= 0.0:
            await self._send_key(event)
        else:
            self._waiting_keys.append(event)
            if len(self._waiting_keys) == 1:
                self.set_timer(PATIENCE, self._lose_patience)

    async def _send_key(self, event: events.Key | events.Paste) -> None:
        self._sent_keys += 1
        self._sent_key_at = time.monotonic()
        self._key_screen = self.screen
        self._key_target = self.focused or self.screen
        await super().on_event(event)
        await self._follow(self._key_target, 1)

    async def _follow(self, target: Widget, lap: int) -> None:
        if not target.post_message(self.Dealt(self._sent_keys, lap)):
            await self._send_next_key()

    async def on_ordered_keys_dealt(self, message: Dealt) -> None:
        """The next key, if there is one; but a screen that has come with this one is to be made first, with its focus."""
        if message.number != self._sent_keys or self._key_target is None or not self._has_screen():
            return
        if self.screen is not self._key_screen:
            self._key_screen = self._key_target = self.screen
            await self._follow(self.screen, 1)
        elif message.lap < LAPS:
            await self._follow(self._key_target, message.lap + 1)
        else:
            await self._send_next_key()

    async def _send_next_key(self) -> None:
        self._sent_key_at = None
        if self._waiting_keys and self._has_screen():
            await self._send_key(self._waiting_keys.popleft())

    def _has_screen(self) -> bool:
        """False once the app is ending."""
        try:
            return self.screen is not None
        except ScreenStackError:
            return False

    def _patience_left(self) -> float:
        """Seconds for which the key that was sent is waited for."""
        return 0.0 if self._sent_key_at is None else self._sent_key_at + PATIENCE - time.monotonic()

    async def _lose_patience(self) -> None:
        if self._waiting_keys and self._patience_left() <= 0.0:
            await self._send_next_key()
        if self._waiting_keys:
            self.set_timer(max(self._patience_left(), 0.01), self._lose_patience)
