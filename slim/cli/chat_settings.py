"""What `/set` shows and changes between two replies of a chat."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable

from slim.cli import nearest
from slim.cli.sampler import confidence_rule
from slim.config import GenerateConfig
from slim.errors import UsageError

STYLES = ("color", "plain", "off")
_NAMES = {"temp": "temperature"}
NOTHING = "none"


def _number(text: str) -> object:
    return _as(float, text)


def _count(text: str) -> object:
    return _as(int, text)


def _seed(text: str) -> object:
    return None if text == "random" else _count(text)


def _stop(text: str) -> object:
    return () if text == NOTHING else (text.replace("\\n", "\n"),)


def _as(kind: Callable[[str], object], text: str) -> object:
    with contextlib.suppress(ValueError):
        return kind(text)
    return text  # GenerateConfig says what it should be


_READERS: dict[str, Callable[[str], object]] = {
    "temperature": _number,
    "top_k": _count,
    "top_p": _number,
    "min_p": _number,
    "repeat_penalty": _number,
    "seed": _seed,
    "max_tokens": _count,
    "min_tokens": _count,
    "stop": _stop,
    "stop_confidence": confidence_rule,
}


class ChatSettings:
    """How replies are drawn and how they are shown."""

    def __init__(self, config: GenerateConfig, confidence: str) -> None:
        self.config = config
        self.confidence = confidence

    def set(self, name: str, text: str) -> None:
        """Change one setting; UsageError names those that there are, ConfigError what a value should be."""
        name = _known_as(name)
        if name == "confidence":
            if text not in STYLES:
                raise UsageError(f"confidence must be {', '.join(STYLES)}, but is {text!r}")
            self.confidence = text
        elif name in _READERS:
            self.config = dataclasses.replace(self.config, **{name: _READERS[name](text)})  # type: ignore[arg-type]
        else:
            names = [*_READERS, *_NAMES, "confidence"]
            raise UsageError(
                f"there is no setting {name!r}{nearest(name, names)}: /set lists them all"
            )

    def line(self, name: str) -> str:
        """A setting that there is, with its value."""
        return f"{_known_as(name)}: {self._shown()[_known_as(name)]}"

    def lines(self) -> list[str]:
        """Every setting with its value."""
        shown = self._shown()
        width = max(map(len, shown))
        return [f"{name:<{width}}  {value}" for name, value in shown.items()]

    def _shown(self) -> dict[str, str]:
        shown = {name: _in_words(name, getattr(self.config, name)) for name in _READERS}
        return {**shown, "confidence": self.confidence}


def _known_as(name: str) -> str:
    name = name.replace("-", "_")
    return _NAMES.get(name, name)


def _in_words(name: str, value: object) -> str:
    if name == "seed" and value is None:
        return "random"
    if isinstance(value, tuple):
        return ", ".join(map(repr, value)) or NOTHING
    return f"{value:g}" if isinstance(value, float) else str(value)
