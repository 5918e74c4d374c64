"""A field for text that is sent with Enter."""

from __future__ import annotations

from typing import ClassVar

from rich.text import Text
from textual import events
from textual.binding import Binding, BindingType
from textual.message import Message
from textual.widgets import TextArea

from slim.safe_text import safe_text

NEW_LINE_KEYS = (
    "ctrl+j",
    "shift+enter",
    "alt+enter",
)  # terminals differ in which of them they tell


class PromptArea(TextArea):
    """Enter sends, ctrl+j begins a new line. What was pasted stays as it is, but shows only what a terminal may see."""

    DEFAULT_CSS = """
    PromptArea { height: auto; max-height: 7; min-height: 3; }
    PromptArea .text-area--placeholder { color: $foreground 65%; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "submit", "Send", show=False, tooltip="write on from it, or send it"),
        Binding("ctrl+j,alt+enter", "new_line", "new line", show=False),
    ]

    class Submitted(Message):
        """Enter was pressed."""

        def __init__(self, area: PromptArea, text: str) -> None:
            super().__init__()
            self.area = area
            self.text = text

        @property
        def control(self) -> PromptArea:
            return self.area

    class Recalled(Message):
        """Up was pressed in an empty field."""

    def __init__(self, text: str = "", *, placeholder: str = "", id: str | None = None) -> None:
        super().__init__(
            text, placeholder=placeholder, soft_wrap=True, show_line_numbers=False,
            highlight_cursor_line=False, id=id,
        )  # fmt: skip
        self.cursor_blink = (
            False  # it would be drawn twice a second, on screens that nobody sees too
        )

    def get_line(self, line_index: int) -> Text:
        """What the screen shows of a line: as many characters, none of which a terminal obeys."""
        return Text(safe_text(self.document.get_line(line_index)), end="", no_wrap=True)

    async def _on_key(self, event: events.Key) -> None:
        if event.key == "enter":
            event.stop()
            event.prevent_default()
            self.action_submit()
        elif event.key in NEW_LINE_KEYS:
            event.stop()
            event.prevent_default()
            self.action_new_line()
        elif event.key == "up" and not self.text:
            event.stop()
            event.prevent_default()
            self.post_message(self.Recalled())
        else:
            await super()._on_key(event)

    def action_submit(self) -> None:
        """Tell the screen that the text is whole."""
        self.post_message(self.Submitted(self, self.text))

    def action_new_line(self) -> None:
        """A line break at the cursor."""
        self.insert("\n")
