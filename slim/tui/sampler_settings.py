"""How text is drawn and when it ends: one small field for each setting."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Container, Horizontal
from textual.message import Message
from textual.widgets import Input, Label

from slim.config import GenerateConfig
from slim.errors import ConfigError
from slim.tui.safe_input import SafeInput

DEFAULT = GenerateConfig(stop_confidence="auto")


@dataclass(frozen=True, slots=True)
class Setting:
    """A field of GenerateConfig: what it is called, how it is read and how far one key press moves it."""

    name: str
    label: str
    read: Callable[[str], object]
    step: float
    tooltip: str


def _seed(text: str) -> int | None:
    return None if text in ("", "random") else int(text)


def _rule(text: str) -> str | float:
    return text if text in ("off", "auto") else float(text)


SETTINGS = (
    Setting("temperature", "temp", float, 0.1, "temperature: 0 takes the most probable token"),
    Setting("top_p", "top-p", float, 0.05, "draw from the fewest tokens that hold this much: 1 is off"),
    Setting("top_k", "top-k", int, 10, "draw from so many most probable tokens: 0 is off"),
    Setting("min_p", "min-p", float, 0.01, "leave out what is less probable than this times the best"),
    Setting("repeat_penalty", "penalty", float, 0.05, "make the last 64 tokens less probable: 1 is off"),
    Setting("max_tokens", "tokens", int, 50, "at most so many"),
    Setting("seed", "seed", _seed, 1, "a number for the same text again, or random"),
    Setting("stop_confidence", "unsure", _rule, 0.0, "stop when it is lost: off, auto or a mean log p"),
)  # fmt: skip


def shown(value: object) -> str:
    """A setting as it is typed."""
    if value is None:
        return "random"
    return f"{value:g}" if isinstance(value, float) else str(value)


class SettingInput(SafeInput):
    """A field whose value up and down move."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up", "move(1)", "more", show=False),
        Binding("down", "move(-1)", "less", show=False),
    ]

    def __init__(self, setting: Setting) -> None:
        super().__init__(
            shown(getattr(DEFAULT, setting.name)), compact=True, id=setting.name, max_length=12,
        )  # fmt: skip
        self.setting = setting
        self.tooltip = setting.tooltip

    def action_move(self, direction: int) -> None:
        """A step up or down, as far as that makes sense."""
        setting = self.setting
        if setting.name == "stop_confidence":
            self.value = "off" if self.value == "auto" else "auto"
            return
        try:
            value = setting.read(self.value)
        except ValueError:
            return
        number = value if isinstance(value, (int, float)) else -1
        moved = number + direction * setting.step
        moved = int(moved) if setting.read is not float else round(moved, 4)
        try:
            dataclasses.replace(DEFAULT, **{setting.name: moved})  # type: ignore[arg-type]
        except ConfigError:
            return
        if setting.name == "seed" and moved < 0:
            self.value = "random"
        else:
            self.value = shown(float(moved) if setting.read is float else moved)


class SamplerSettings(Container):
    """All settings; `config` is what they say."""

    DEFAULT_CSS = """
    SamplerSettings { layout: grid; grid-size: 4; grid-gutter: 0 1; height: 2; }
    SamplerSettings Horizontal { height: 1; }
    SamplerSettings Label { width: 8; color: $text-muted; }
    SamplerSettings Input { width: 1fr; }
    SamplerSettings Input.-wrong { color: $text-error; text-style: bold; }
    """

    class Changed(Message):
        """A setting has a new value."""

    def compose(self) -> ComposeResult:
        for setting in SETTINGS:
            with Horizontal():
                yield Label(setting.label)
                yield SettingInput(setting)

    def config(self) -> GenerateConfig:
        """The settings; ConfigError names the first that makes no sense, and its field is marked."""
        config = DEFAULT
        problem: ConfigError | None = None
        for setting in SETTINGS:
            field = self.query_one(f"#{setting.name}", SettingInput)
            try:
                value = setting.read(field.value.strip())
                config = dataclasses.replace(config, **{setting.name: value})  # type: ignore[arg-type]
            except (ValueError, OverflowError):
                error = ConfigError(f"{setting.label}: {setting.tooltip}; but is {field.value!r}")
                problem = problem or error
                field.add_class("-wrong")
            except ConfigError as error:
                problem = problem or error
                field.add_class("-wrong")
            else:
                field.remove_class("-wrong")
        if problem is not None:
            raise problem
        return config

    def on_input_changed(self, event: Input.Changed) -> None:
        event.stop()
        event.input.remove_class("-wrong")
        self.post_message(self.Changed())
