"""How expected each piece of text was, as marks in a terminal or in plain text.

Five bins of p, absolute (.80, .50, .20, .05) or relative to what is usual for the model. Weight and underline carry
the meaning and one hue helps, so that it reads on dark and light themes, with 16 colours and under NO_COLOR.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping

from slim.errors import UsageError
from slim.shades import LEGEND, STOP_LEGEND, Bins

ESCAPE = "\x1b["
# Steel blue and grey of middle luminance: at least 3:1 on black and on white.
COLOURS = ("1", "", "38;5;67", "4;38;5;67", "4;38;5;244")
ATTRIBUTES = ("1", "", "2", "4", "2;4")
BRACKETS = ("", "", "()", "[]", "{}")


def colours_work(environment: Mapping[str, str]) -> bool:
    """Whether the terminal that the environment describes shows 256 colours."""
    if environment.get("NO_COLOR") or environment.get("TERM", "dumb") == "dumb":
        return False
    return "256" in environment["TERM"] or bool(environment.get("COLORTERM"))


# Edges under which p = 0.5 lies in bin 0, 1, 2, 3, 4.
_LEVELS = tuple((1.0,) * level + (0.0,) * (4 - level) for level in range(5))


def _closing(style: str, level: int) -> str:
    return BRACKETS[level][1:] if style == "plain" else ""


def shading_of(args: argparse.Namespace, environment: Mapping[str, str]) -> Shading:
    """What the options ask for; UsageError for relative bins that the model file does not have."""
    bins: Bins | None = None
    if args.confidence != "off" and args.bins != "absolute":
        from slim.calibration import Calibration
        from slim.model_file import open_source

        with open_source(args.model) as source:
            calibration = Calibration.from_record(source.metadata.get("calibration"))
        bins = None if calibration is None else calibration.relative_bins
        if bins is None and args.bins == "relative":
            raise UsageError(
                f"{args.model} is not calibrated on held-out text, which relative bins need: "
                "slim calibrate MODEL DATA does it"
            )
    return Shading(args.confidence, colours_work(environment), bins)


class Shading:
    """Marks one text, piece after piece: style is color (p shades), plain (p brackets) or off."""

    def __init__(self, style: str, colours: bool, bins: Bins | None = None) -> None:
        """bins: of p; None: the absolute ones"""
        self._style = style
        self._bins = Bins() if bins is None else bins
        self._codes = COLOURS if colours else ATTRIBUTES
        self._open = 0  # plain: the bin whose bracket is open

    def mark(self, text: str, p: float) -> str:
        """`text`, which is already safe for a terminal, with its marks."""
        if self._style == "off" or not text:
            return text
        level = self._bins.of(p)
        if self._style == "plain":
            breaks = text.isspace() and "\n" in text  # brackets do not go on over the end of a line
            return self.close() + text if breaks else self._bracketed(text, level)
        code = self._codes[level]
        return f"{ESCAPE}{code}m{text}{ESCAPE}0m" if code else text

    def close(self) -> str:
        """What ends the last piece's marks."""
        out, self._open = BRACKETS[self._open][1:], 0
        return out

    def legend(self, stops: bool = False) -> str:
        """The sentence that a person needs, and what the marks mean; `stops`: the text may end by itself."""
        if self._style == "off":
            return ""
        first, *others = (f"{edge:.2g}".replace("0.", ".") for edge in self._bins.edges)
        names = (f"p >= {first}", *others, "less")
        # Equal edges leave a bin empty: its mark is shown where it would begin.
        marks = [
            Shading(self._style, self._codes is COLOURS, Bins(edges)).mark(name, 0.5)
            for name, edges in zip(names, _LEVELS, strict=True)
        ]
        closed = [mark + _closing(self._style, level) for level, mark in enumerate(marks)]
        which = "model p, by what is usual for this model" if self._bins.relative else "model p"
        return f"{LEGEND}{STOP_LEGEND if stops else ''}\n{which}: {'  '.join(closed)}"

    def _bracketed(self, text: str, level: int) -> str:
        if level == self._open:
            return text
        closing = self.close()
        self._open = level
        opening = BRACKETS[level][:1]
        # The space before a word stays outside of its brackets.
        space = text[: len(text) - len(text.lstrip())] if opening else ""
        return closing + space + opening + text[len(space) :]
