"""Keys act in the order in which they were pressed, however busy the machine is.

Textual sends a key to what has the focus when it comes, where a text field takes letters at once, and looks for a binding
only when the key has come back up to the app. So of keys that come together, as from a quick hand while a model trains, a
letter overtakes the Tab or ctrl+u before it, and a path typed after `o` goes to the screen that `o` leaves. Here a key is
sent when the one before it has been dealt with: a message follows it through the same queues and comes back behind it.
"""

from __future__ import annotations

from collections import deque
from typing import Any, TypeVar

from textual import events
from textual.app import App, ScreenStackError
from textual.message import Message
from textual.screen import Screen
from textual.widget import Widget

Result = TypeVar("Result")
LAPS = 2  # what a key leads to may be said by another message: Enter in a field is one, `Submitted` the next
SECONDS_BETWEEN_LOOKS = 0.3  # at what has the key that the others wait for
MOST_LOOKS = 10  # for one key: what has it is still there, but does not come to an end with it


class OrderedKeys(App[Result]):
    """An app that deals with one key at a time; a pasted text counts as one. A mouse button waits for the keys before it."""

    class Dealt(Message):
        """What was sent before to those through whose queues this comes has been dealt with."""

        def __init__(self, number: int, lap: int) -> None:
            super().__init__()
            self.number, self.lap = number, lap

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self._waiting_keys: deque[events.Event] = deque()
        self._sent_keys = 0
        self._key_target: Widget | None = None  # of the key that is being dealt with
        self._key_screen: Screen[Any] | None = None
        self._looks = 0
        self._will_look = False

    async def on_event(self, event: events.Event) -> None:
        """Hold a key back while another is on its way."""
        held = isinstance(event, events.Key | events.Paste | events.MouseDown | events.MouseUp)
        if not held or event.is_forwarded:
            await super().on_event(event)
        elif self._has_screen():
            self._waiting_keys.append(event)
            if self._key_target is None:
                await self._send_next_key()
            else:
                self._mind_what_is_gone()
                self._look_later()

    async def _send_next_key(self) -> None:
        self._key_target = None
        while self._waiting_keys and self._key_target is None and self._has_screen():
            event = self._waiting_keys.popleft()
            if isinstance(event, events.Key | events.Paste):
                self._sent_keys += 1
                self._looks = 0
                self._key_screen = self.screen
                self._key_target = self.focused or self.screen
            await super().on_event(event)
            self._follow(1)

    def _follow(self, lap: int) -> None:
        if self._key_target is not None:
            self._key_target.post_message(self.Dealt(self._sent_keys, lap))

    def _follow_through_screen(self) -> None:
        self._key_screen = self._key_target = self.screen
        self._follow(1)

    async def on_ordered_keys_dealt(self, message: Dealt) -> None:
        """The next key, if there is one; but a screen that has come with this one is to be made first, with its focus."""
        if message.number != self._sent_keys or self._key_target is None or not self._has_screen():
            return
        if self.screen is not self._key_screen:
            self._follow_through_screen()
        elif message.lap < LAPS:
            self._follow(message.lap + 1)
        else:
            await self._send_next_key()

    def _has_screen(self) -> bool:
        """False once the app is ending."""
        try:
            return self.screen is not None
        except ScreenStackError:
            return False

    def _mind_what_is_gone(self) -> None:
        """What had the key may have been taken away, and the message with it: another one follows through the screen."""
        if self._key_target is not None and not self._key_target.is_running:
            self._follow_through_screen()

    def _look_later(self) -> None:
        """After all that has come to the app by then, for that may be what is waited for."""
        if not self._will_look:
            self._will_look = True
            self.set_timer(SECONDS_BETWEEN_LOOKS, lambda: self.call_later(self._look))

    async def _look(self) -> None:
        """Nothing that gets lost on its way holds back the keys behind it."""
        self._will_look = False
        if not self._waiting_keys or self._key_target is None:
            return
        self._looks += 1
        if self._looks > MOST_LOOKS:
            await self._send_next_key()
        else:
            self._mind_what_is_gone()
        if self._waiting_keys:
            self._look_later()
