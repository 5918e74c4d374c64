"""Every key that acts just now, from the bindings themselves: of what has the focus, of the screen, of everything."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen, Screen
from textual.widget import Widget
from textual.widgets import Input, Static, TextArea

from slim.tui.whole_screen import WholeScreen

GROUPS = ("Here", "On this screen", "Everywhere", "In every text field")
KEY_WIDTH = 23
# What every screen of Textual can do.
TEXTUAL_ACTIONS = {item.action for item in Screen.BINDINGS if isinstance(item, Binding)}


class HelpScreen(WholeScreen[None], ModalScreen[None]):
    """A list of keys; any key that goes back closes it."""

    CSS = """
    HelpScreen { align: center middle; background: $background 60%; }
    HelpScreen > VerticalScroll {
        width: 76; max-width: 94%; height: auto; max-height: 90%; padding: 1 2; background: $panel;
    }
    HelpScreen .group { color: $accent; text-style: bold; }
    HelpScreen .keys { margin-bottom: 1; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,f1,question_mark,q", "dismiss_help", "Close"),
    ]

    def __init__(self, about: Screen[Any]) -> None:
        super().__init__()
        self._about = about

    def compose(self) -> ComposeResult:
        """Groups with their keys."""
        groups: dict[str, list[tuple[str, str]]] = {group: [] for group in GROUPS}
        for group, keys, words in described_keys(self._about):
            groups[group].append((keys, words))
        with VerticalScroll():
            for group, rows in groups.items():
                if rows:
                    yield Static(group, classes="group")
                    lines = [(f"{keys:<{KEY_WIDTH}} {words}\n") for keys, words in rows]
                    yield Static(Content("".join(lines).rstrip("\n")), classes="keys")
            yield Static(
                Content(
                    "Esc closes this. Dragging with the mouse selects text, ^c copies it; with shift the terminal selects."
                ),
                classes="keys",
            )

    def action_dismiss_help(self) -> None:
        """Back to where the help was asked for."""
        self.dismiss(None)


def described_keys(about: Screen[Any]) -> Iterator[tuple[str, str, str]]:
    """Group, keys and words of every binding that is reached from a screen and its focus."""
    found: dict[tuple[str, str, str], list[str]] = {}
    for node, binding, enabled, _ in about.active_bindings.values():
        words = binding.tooltip or binding.description
        if not words or not enabled:
            continue
        if isinstance(node, App):
            group = GROUPS[2]
        elif isinstance(node, Screen):
            own = binding.action not in TEXTUAL_ACTIONS
            group = GROUPS[1] if own else GROUPS[2]
        elif isinstance(node, Input | TextArea) and binding.action not in _own_actions(node):
            group = GROUPS[3]
        else:
            group = GROUPS[0] if isinstance(node, Widget) else GROUPS[2]
        keys = found.setdefault((group, binding.action, words), [])
        display = key_name(binding.key)
        if display not in keys:
            keys.append(display)
    for (group, _, words), keys in found.items():
        yield group, ", ".join(keys), words


def _own_actions(field: Widget) -> set[str]:
    """What a text field can do beyond moving and editing, which is much, and known from everywhere."""
    own = vars(type(field)).get("BINDINGS", ())
    return {item.action for item in own if isinstance(item, Binding)}


def key_name(key: str) -> str:
    """What a key is called in a list: without arrows and other signs, which not every terminal has."""
    *held, last = key.split("+")
    last = KEY_NAMES.get(last, last)
    if "ctrl" in held and len(last) == 1:
        return f"^{last}"
    return "+".join((*held, last))


KEY_NAMES = {
    "question_mark": "?", "left_square_bracket": "[", "right_square_bracket": "]", "equals_sign": "=",
    "plus": "+", "minus": "-", "escape": "Esc", "space": "Space", "enter": "Enter", "tab": "Tab",
    "left": "Left", "right": "Right", "up": "Up", "down": "Down", "home": "Home", "end": "End",
    "pageup": "PgUp", "pagedown": "PgDn", **{f"f{number}": f"F{number}" for number in range(1, 13)},
}  # fmt: skip
