"""The small windows: a path to open, leaving while a run trains, a terminal that is too small."""

from __future__ import annotations

import os
from pathlib import Path
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.screen import ModalScreen
from textual.suggester import Suggester
from textual.widgets import Input, OptionList, Static
from textual.widgets.option_list import Option

from slim.input_file import typed_path
from slim.safe_text import safe_line
from slim.tui.safe_input import SafeInput
from slim.tui.whole_screen import WholeScreen

MOST_SUGGESTED = 1_000  # names of a folder that are looked at


class PathSuggester(Suggester):
    """The first name in the folder that a path begins."""

    def __init__(self, folder: Path) -> None:
        super().__init__(use_cache=False, case_sensitive=True)
        self._folder = folder

    async def get_suggestion(self, value: str) -> str | None:
        """The whole path, or None."""
        head, _, begun = value.rpartition("/")
        if begun in ("", "."):
            return None
        folder = self._folder / typed_path(head + "/" if head or value.startswith("/") else "")
        try:
            with os.scandir(folder) as items:
                names = sorted(
                    item.name for _, item in zip(range(MOST_SUGGESTED), items, strict=False)
                )
        except OSError:
            return None
        for name in names:
            if name.startswith(begun) and name == safe_line(name):
                return value[: len(value) - len(begun)] + name
        return None


class OpenDialog(WholeScreen[Path | None], ModalScreen[Path | None]):
    """A path is typed: a text to train on, a model to write with, a run to watch."""

    CSS = """
    OpenDialog { align: center middle; background: $background 60%; }
    OpenDialog > Vertical { width: 72; max-width: 90%; height: auto; padding: 1 2; background: $panel; }
    OpenDialog Input { margin: 1 0; }
    OpenDialog .hint { color: $foreground 70%; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "cancel", "Cancel"),
        Binding("enter", "submit", "Open"),
    ]

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder

    def compose(self) -> ComposeResult:
        """One field, and what may be put there."""
        with Vertical():
            yield Static("Open", classes="title")
            yield SafeInput(
                placeholder="a path",
                suggester=PathSuggester(self._folder),
                id="path",
            )
            yield Static(
                "a text file or a folder of them: train on it\na model: write and chat with it\n"
                "a run (NAME.run): watch it\nright arrow completes the name, Esc goes back",
                classes="hint",
            )

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """The path is whole."""
        text = event.value.strip()
        self.dismiss(self._folder / typed_path(text) if text and "\0" not in text else None)

    def action_cancel(self) -> None:
        """Nothing is opened."""
        self.dismiss(None)


class QuitDialog(WholeScreen[str | None], ModalScreen[str | None]):
    """A run trains here: what becomes of it?"""

    CSS = """
    QuitDialog { align: center middle; background: $background 60%; }
    QuitDialog > Vertical { width: 62; max-width: 90%; height: auto; padding: 1 2; background: $panel; }
    QuitDialog OptionList { height: auto; border: none; margin-top: 1; background: $panel; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,c", "answer('cancel')", "Cancel"),
        Binding("k", "answer('keep')", "Keep training"),
        Binding("s", "answer('stop')", "Save and stop"),
    ]

    def compose(self) -> ComposeResult:
        """Three ways on."""
        with Vertical():
            yield Static("A run is training in this window. Before you leave:")
            yield OptionList(
                Option("s  save and stop: it can go on later", id="stop"),
                Option("k  keep training, without the dashboard", id="keep"),
                Option("c  cancel: stay here", id="cancel"),
            )

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        """An answer with Enter or the mouse."""
        self.action_answer(event.option.id or "cancel")

    def action_answer(self, answer: str) -> None:
        """An answer."""
        self.dismiss(None if answer == "cancel" else answer)


class TooSmall(WholeScreen[None], ModalScreen[None]):
    """What size is needed, while the terminal has less."""

    CSS = """
    TooSmall { align: center middle; background: $background; }
    TooSmall > Static { width: auto; text-align: center; }
    """

    def __init__(self, width: int, height: int) -> None:
        super().__init__()
        self._least = (width, height)

    def compose(self) -> ComposeResult:
        """One sentence."""
        yield Static(id="size")

    def on_screen_resume(self) -> None:
        """What lay over it, such as the question at the end, is gone; the terminal may have grown meanwhile."""
        width, height = self._least
        if self.app.size.width >= width and self.app.size.height >= height:
            self.dismiss()

    def on_resize(self) -> None:
        """The size as it is now."""
        width, height = self._least
        now = self.app.size
        self.query_one("#size", Static).update(
            Content(f"SLiM needs {width} x {height}\nthis terminal is {now.width} x {now.height}")
        )
