"""Marks for confidence: bins, attributes, brackets."""

from __future__ import annotations

import pytest

from slim.cli.shading import Shading, colours_work
from slim.shades import LEGEND, STOP_LEGEND, Bins


@pytest.mark.parametrize(
    ("environment", "works"),
    [
        ({}, False),
        ({"TERM": "dumb", "COLORTERM": "truecolor"}, False),
        ({"TERM": "xterm"}, False),
        ({"TERM": "xterm-256color"}, True),
        ({"TERM": "xterm", "COLORTERM": "truecolor"}, True),
        ({"TERM": "xterm-256color", "NO_COLOR": "1"}, False),
        ({"TERM": "xterm-256color", "NO_COLOR": ""}, True),
    ],
)
def test_colours_where_the_terminal_has_them(environment: dict[str, str], works: bool) -> None:
    assert colours_work(environment) is works


@pytest.mark.parametrize("colours", [True, False])
def test_five_bins_have_five_marks_and_no_colour_without_colours(colours: bool) -> None:
    shading = Shading("color", colours)
    marks = [shading.mark("x", p) for p in (0.80, 0.50, 0.20, 0.05, 0.049)]
    assert len(set(marks)) == 5
    for mark in marks:
        assert mark == "x" or (mark.startswith("\x1b[") and mark.endswith("x\x1b[0m"))
    assert any("38;5" in mark for mark in marks) is colours
    assert shading.mark("", 0.01) == ""


def test_brackets_join_neighbours_and_leave_the_blank_outside() -> None:
    shading = Shading("plain", False)
    pieces = [("Once", 0.9), (" upon", 0.3), (" a", 0.25), (" time", 0.01), (" it", 0.6)]
    text = "".join(shading.mark(*piece) for piece in pieces) + shading.close()
    assert text == "Once (upon a) {time} it"
    assert shading.mark("x", 0.1) + shading.close() + shading.close() == "[x]"


def test_no_marks_when_off_and_a_legend_when_on() -> None:
    off = Shading("off", True)
    assert off.mark("x", 0.0) == "x" and off.legend() == off.close() == ""
    legend = Shading("plain", False).legend()
    assert legend == f"{LEGEND}\nmodel p: p >= .8  .5  (.2)  [.05]  {{less}}"
    assert STOP_LEGEND in Shading("plain", False).legend(stops=True)


def test_relative_bins_follow_the_model_and_the_legend_says_so() -> None:
    shading = Shading("plain", False, Bins((0.4, 0.07, 0.006, 0.0), relative=True))
    assert shading.mark("sure", 0.41) == "sure"
    assert shading.mark(" less", 0.05) + shading.close() == " (less)"
    assert shading.mark(" lost", 0.0001) + shading.close() == " [lost]"
    last = shading.legend().splitlines()[-1]
    # An empty bin has its mark all the same.
    assert last == ("model p, by what is usual for this model: p >= .4  .07  (.006)  [0]  {less}")


def test_absolute_bins() -> None:
    edges = (1.0, 0.8, 0.79, 0.5, 0.49, 0.2, 0.19, 0.05, 0.049, 0.0)
    assert [Bins().of(p) for p in edges] == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
