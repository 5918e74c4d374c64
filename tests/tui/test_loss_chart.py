"""The chart: what stands where, at any size and with any characters, and the same work at any length of the run."""

from __future__ import annotations

import math

import numpy as np
import pytest
from textual.app import App, ComposeResult

from made_runs import run_events, started, stepped
from slim.events import EvalFinished
from slim.tui.loss_chart import LossChart, digits_of, glyphs_for, number_text
from slim.tui.plot import ASCII, BLOCKS, BRAILLE, band, cells, heights, line, ticks
from slim.tui.run_view import RunView


class ChartApp(App[None]):
    def __init__(self, *views: RunView) -> None:
        super().__init__()
        self.views = views
        self.chart = LossChart()

    def compose(self) -> ComposeResult:
        yield self.chart

    def on_mount(self) -> None:
        self.chart.set_runs(self.views)
        self.chart.focus()

    def text(self) -> str:
        return "\n".join(self.chart.render_line(y).text for y in range(self.chart.size.height))


def view_of(events: list[object], name: str = "x.bin") -> RunView:
    view = RunView(name)
    view.add_all(events)  # type: ignore[arg-type]
    return view


# ---- dots into characters --------------------------------------------------------------------------------------------


def test_each_dot_of_braille_is_its_own() -> None:
    seen = set()
    for row in range(4):
        for column in range(2):
            dots = np.zeros((4, 2), bool)
            dots[row, column] = True
            codes, owner = cells([dots], BRAILLE, ".")
            seen.add(int(codes[0, 0]) - 0x2800)
            assert owner[0, 0] == 0
    assert sorted(seen) == [1, 2, 4, 8, 16, 32, 64, 128]


def test_the_later_layer_has_the_cell() -> None:
    full, one = np.ones((4, 4), bool), np.zeros((4, 4), bool)
    one[0, 0] = True
    codes, owner = cells([full, one], BRAILLE, ".*")
    assert codes[0].tolist() == [0x2801, 0x28FF] and owner[0].tolist() == [1, 0]
    assert [chr(code) for code in cells([np.eye(2, dtype=bool)], BLOCKS, ".")[0][0]] == ["▀", "▄"]
    assert chr(cells([np.ones((1, 1), bool)], ASCII, ".")[0][0, 0]) == "."


def test_a_line_has_no_holes_but_its_gaps() -> None:
    height = np.array([0.0, 9.0, math.nan, 3.0])
    dots = line(height, 10)
    assert dots[:, 0].any() and dots[:, 1].any() and not dots[:, 2].any()
    assert set(np.flatnonzero(dots[:, 0])) | set(np.flatnonzero(dots[:, 1])) == set(range(10))
    assert line(np.empty(0), 4).shape == (4, 0)


def test_heights_are_within_the_plot() -> None:
    values = np.array([-1.0, 1.0, 2.0, 99.0, math.nan])
    for log in (False, True):
        found = heights(values, 1.0, 2.0, 10, log)
        assert np.nanmin(found) == 0.0 and np.nanmax(found) < 10 and math.isnan(found[4])
    assert band(np.array([3.0]), np.array([1.0]), 5)[:, 0].tolist() == [
        False,
        True,
        True,
        True,
        False,
    ]


@pytest.mark.parametrize("log", [False, True])
def test_ticks_are_few_and_inside(log: bool) -> None:
    for low, high in ((1.9, 8.4), (0.001, 900.0), (2.0, 2.01), (5.0, 5.0), (math.nan, 1.0)):
        found = ticks(low, high, 5, log)
        assert len(found) <= 9 and all(low - 1e-9 <= value <= high + 1e-9 for value in found)
    assert number_text(2.0, 1) == "2.0" and len(number_text(123_456.0, 0)) <= 5
    assert [digits_of(marks) for marks in ([2.0, 4.0], [2.0, 2.5], [3.25, 3.5], [1.001])] == [
        0,
        1,
        2,
        3,
    ]


def test_glyphs_follow_the_terminal() -> None:
    assert glyphs_for(True, "xterm") is ASCII
    assert glyphs_for(False, "linux") is BLOCKS
    assert glyphs_for(False, "xterm-256color") is BRAILLE


# ---- the widget ------------------------------------------------------------------------------------------------------


async def test_the_chart_says_what_it_shows() -> None:
    app = ChartApp(view_of(run_events()))
    async with app.run_test(size=(80, 11)):
        text = app.text()
        assert "loss 1.600" in text and "smoothed 1.600" in text and "validation 1.640" in text
        assert "best 1.640" in text and "◆" in text
        assert "lr warm-up" in text and "lr decay" in text
        assert any(0x2800 < ord(character) < 0x2900 for character in text)
        assert all(app.chart.render_line(y).cell_length == 80 for y in range(11))


async def test_log_scale_smoothing_and_glyphs_change_the_picture() -> None:
    app = ChartApp(view_of(run_events()))
    async with app.run_test(size=(80, 11)):
        before = app.text()
        app.chart.toggle_log()
        assert app.text() != before and "log" in app.text()
        assert [app.chart.cycle_shown() for _ in range(3)] == ["smoothed", "every step", "both"]
        assert [app.chart.cycle_glyphs() for _ in range(3)] == ["blocks", "ascii", "braille"]
        app.chart.glyphs = ASCII
        app.chart.redraw()
        assert app.text().isascii() and "B" in app.text()


async def test_zoom_and_reset() -> None:
    app = ChartApp(view_of(run_events()))
    async with app.run_test(size=(80, 11)):
        app.chart.zoom(0.5)
        assert app.chart.window == (20.0, 40.0) and "zoomed" in app.text()
        app.chart.zoom(0.1)
        assert app.chart.window == (32.0, 40.0)
        app.chart.zoom(100.0)
        assert app.chart.window is None
        app.chart.zoom(0.5)
        app.chart.reset()
        assert app.chart.window is None


async def test_the_crosshair_reads_values() -> None:
    app = ChartApp(view_of(run_events()))
    async with app.run_test(size=(80, 11)) as pilot:
        await pilot.press("left")
        assert app.chart.crosshair == 39
        await pilot.press("home")
        assert app.chart.crosshair == 1 and "step 1: " in app.text() and "┊" in app.text()
        await pilot.press("end")
        reading = app.chart.reading()
        assert reading is not None and reading.step == 40 and reading.validation == (40, 1.64)
        await pilot.click(LossChart, offset=(6 + 37, 5))
        assert app.chart.crosshair is not None and 19 <= app.chart.crosshair <= 21


async def test_the_window_follows_the_crosshair() -> None:
    app = ChartApp(view_of(run_events()))
    async with app.run_test(size=(80, 11)) as pilot:
        app.chart.zoom(0.25)
        await pilot.press("home")
        assert app.chart.window is not None and app.chart.window[0] <= 1


async def test_gaps_and_spikes_are_seen() -> None:
    events = [started(), *(stepped(step, 2.0) for step in range(1, 200))]
    events[100] = stepped(100, 50.0)
    for step in range(140, 160):
        events[step] = stepped(step, math.nan)
    app = ChartApp(view_of(events))
    async with app.run_test(size=(106, 11)):
        plot = [app.chart.render_line(y).text[6:] for y in range(1, 9)]
        columns = ["".join(row[x] for row in plot).strip() for x in range(100)]
        assert columns[50] and len(columns[50]) > 4  # the spike stands high
        assert not any(columns[71:79]) and columns[65] and columns[90]


async def test_an_empty_run_and_a_tiny_chart_are_no_trouble() -> None:
    view = RunView("x.bin")
    app = ChartApp(view)
    async with app.run_test(size=(80, 11)) as pilot:
        assert "The loss appears here" in app.text()
        await pilot.press("left", "right")
        view.add(started())
        view.add(stepped(1, math.nan))
        app.chart.redraw(if_changed=True)
        assert "loss nan" in app.text()
        for width, height in ((7, 3), (9, 1), (12, 4)):
            await pilot.resize_terminal(width, height)
            app.chart.redraw()
            app.text()


async def test_several_runs_are_named_and_differ() -> None:
    one, two = (
        view_of(run_events(), "a.bin"),
        view_of([started(), stepped(1), stepped(2)], "/x/b\x1b[31m.bin"),
    )
    app = ChartApp(one, two)
    async with app.run_test(size=(80, 11)):
        legend = app.chart.render_line(0).text
        assert "a.bin 1.600" in legend and "b" in legend and "\x1b" not in legend


async def test_the_crosshair_reads_every_run() -> None:
    one = view_of(run_events(), "a.bin")
    app = ChartApp(one, view_of([started(), *(stepped(step, 5.0) for step in range(1, 4))], "b.bin"))
    async with app.run_test(size=(80, 11)):
        app.chart.crosshair = 3
        app.chart.redraw()
        there = one.smoothed.at(3)
        assert there is not None and f"step 3: ━ a.bin {there[2]:.3f}   ━ b.bin 5.000" in app.text()
        app.chart.crosshair = 30
        app.chart.redraw()
        assert "b.bin -" in app.text()


async def test_without_colours_marks_tell_curves_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """And the legend says whose they are."""
    monkeypatch.setenv("NO_COLOR", "1")
    app = ChartApp(view_of(run_events(), "a.bin"), view_of([started(), *(stepped(i, 5.0) for i in range(1, 9))], "b.bin"))
    async with app.run_test(size=(80, 11)):
        legend, *picture = app.text().splitlines()
        assert "* a.bin" in legend and "o b.bin" in legend
        drawn = "".join(line[7:] for line in picture[:-2])
        assert set(drawn) <= set(" *oB") and "*" in drawn and "o" in drawn


async def test_in_ascii_the_legend_shows_the_marks_of_the_curves() -> None:
    app = ChartApp(view_of(run_events()))
    async with app.run_test(size=(80, 11)):
        app.chart.glyphs = ASCII
        app.chart.redraw()
        assert all(words in app.text() for words in (". loss", "* smoothed", "o validation", "B best"))


async def test_nothing_is_drawn_that_has_not_changed() -> None:
    view = view_of(run_events())
    app = ChartApp(view)
    async with app.run_test(size=(80, 11)):
        app.text()
        drawn = app.chart._drawn
        app.chart.redraw(if_changed=True)
        assert app.chart._drawn is drawn
        view.add(EvalFinished(40, 1.0, 1.0, True, 1.0))
        app.chart.redraw(if_changed=True)
        assert app.chart._drawn == []


async def test_the_work_does_not_grow_with_the_run() -> None:
    """100,000 points are as many numbers to the chart as 4,096 (the time itself is in the benchmark)."""
    view = view_of(
        [started(total=100_000), *(stepped(step, 2.0 + step % 5) for step in range(1, 100_001))]
    )
    assert view.loss._low.size == 4096 and view.loss.stride == 32
    app = ChartApp(view)
    async with app.run_test(size=(100, 20)):
        assert "100,000" in app.text()
