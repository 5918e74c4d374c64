"""The losses of one run or of several over its steps, drawn from buckets: the same work at any length of the run."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.binding import Binding, BindingType
from textual.geometry import Size
from textual.strip import Strip
from textual.widget import Widget

from slim.safe_text import safe_line
from slim.tui.loss_series import Columns
from slim.tui.plot import ASCII, BLOCKS, BRAILLE, GLYPHS, Glyphs, band, cells, heights, line, ticks
from slim.tui.run_view import RunView

LABEL = 6  # cells of the numbers on the left
SHOWN = ("both", "smoothed", "every step")
LEAST_STEPS = 8.0  # of a window: closer there is nothing to see
OPENING_SHARE = 0.03  # of the run, whose losses may lie above the chart
MARGIN = 0.04  # of the range of values, above and below
WIDE = 86  # cells in which the legend is whole
NO_LOSS = "The loss appears here with the first step."
RUN_COLORS = ("line", "second", "third", "fourth")
RUN_MARKS = "*ox+"  # in ASCII, where colours may be few
BAND_MARK, LINE_MARK, VALIDATION_MARK = ".*o"


@dataclass(frozen=True, slots=True)
class Reading:
    """The values under the crosshair."""

    step: int
    loss: tuple[float, float, float] | None  # least, greatest, mean
    smoothed: float | None
    validation: tuple[int, float] | None  # the nearest before, and its step


class LossChart(Widget, can_focus=True):
    """Loss of every step with its spikes, smoothed loss, validation, the best of it, and the learning rate's phases."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {
        *("loss-chart--axis", "loss-chart--label", "loss-chart--band", "loss-chart--line"),
        *("loss-chart--second", "loss-chart--third", "loss-chart--fourth"),
        *("loss-chart--validation", "loss-chart--best", "loss-chart--crosshair"),
    }
    DEFAULT_CSS = """
    LossChart { height: 11; background: $background; }
    LossChart > .loss-chart--axis { color: $secondary 60%; }
    LossChart > .loss-chart--label { color: $secondary; }
    LossChart > .loss-chart--band { color: $primary 40%; }
    LossChart > .loss-chart--line { color: $primary; }
    LossChart > .loss-chart--second { color: $accent; }
    LossChart > .loss-chart--third { color: $success; }
    LossChart > .loss-chart--fourth { color: $error; }
    LossChart > .loss-chart--validation { color: $accent; }
    LossChart > .loss-chart--best { color: $success; text-style: bold; }
    LossChart > .loss-chart--crosshair { color: $foreground; text-style: bold; }
    LossChart:focus > .loss-chart--axis { color: $primary; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("left", "crosshair(-1)", "Crosshair", show=False, tooltip="crosshair to the left"),
        Binding("right", "crosshair(1)", "Crosshair", show=False, tooltip="crosshair to the right"),
        Binding("shift+left,ctrl+left", "crosshair(-10)", "Crosshair", show=False, tooltip="crosshair far to the left"),
        Binding("shift+right,ctrl+right", "crosshair(10)", "Crosshair", show=False, tooltip="crosshair far to the right"),
        Binding("home", "crosshair(-100000)", "Crosshair", show=False, tooltip="crosshair to the first step"),
        Binding("end", "crosshair(100000)", "Crosshair", show=False, tooltip="crosshair to the last step"),
    ]  # fmt: skip

    def __init__(self, glyphs: Glyphs = BRAILLE, id: str | None = None) -> None:
        super().__init__(id=id)
        self.glyphs = glyphs
        self.log_scale = False
        self.shown = SHOWN[0]
        self.window: tuple[float, float] | None = None  # steps; None: all of them
        self.crosshair: int | None = None  # a step
        self.runs: list[RunView] = []
        self._drawn: list[Strip] = []
        self._drawn_size = Size(0, 0)
        self._drawn_versions: tuple[object, ...] = ()

    # ---- what is asked of it ---------------------------------------------------------------------------------------

    def set_runs(self, runs: Sequence[RunView]) -> None:
        """Show these runs, the first in detail."""
        self.runs = list(runs)
        if len(self.runs) > 1 and self.app.no_color:
            self.glyphs = ASCII  # whose marks tell the runs apart
        self.window = self.crosshair = None
        self.redraw()

    def redraw(self, if_changed: bool = False) -> None:
        """Draw again, or only where there is something new."""
        versions = tuple((id(run), run.version) for run in self.runs)
        if not if_changed or versions != self._drawn_versions:
            self._drawn_versions = versions
            self._drawn = []
            self.refresh()

    def toggle_log(self) -> None:
        """Logarithmic or linear scale."""
        self.log_scale = not self.log_scale
        self.redraw()

    def cycle_shown(self) -> str:
        """Every step, the smoothed loss, or both; which."""
        self.shown = SHOWN[(SHOWN.index(self.shown) + 1) % len(SHOWN)]
        self.redraw()
        return self.shown

    def cycle_glyphs(self) -> str:
        """Braille, blocks or ASCII; which."""
        self.glyphs = GLYPHS[(GLYPHS.index(self.glyphs) + 1) % len(GLYPHS)]
        self.redraw()
        return self.glyphs.name

    def zoom(self, factor: float) -> None:
        """A window of so many times the present one, around the crosshair, else towards the end."""
        first, last = self._steps()
        centre = self.crosshair if self.crosshair is not None else last
        width = max((last - first) * factor, LEAST_STEPS)
        lowest, highest = self._all_steps()
        if width >= highest - lowest:
            self.window = None
        else:
            share = (centre - first) / (last - first) if last > first else 1.0
            begin = min(max(centre - share * width, lowest), highest - width)
            self.window = (begin, begin + width)
        self.redraw()

    def reset(self) -> None:
        """All steps, no crosshair."""
        self.window = self.crosshair = None
        self.redraw()

    def action_crosshair(self, columns: int) -> None:
        """Move the crosshair by so many columns; the window follows it."""
        first, last = self._steps()
        width = self._plot_width
        if not self.runs or width < 1 or last <= first:
            return
        _, highest = self._all_steps()
        end = min(highest, max(run.last_step for run in self.runs))
        if end < 1:
            return
        at = end if self.crosshair is None else self.crosshair
        step = at + columns * max(1.0, (last - first) / width)
        self.crosshair = round(min(max(step, 1.0), end))
        if self.window is not None and not first <= self.crosshair <= last:
            move = self.crosshair - (first if self.crosshair < first else last)
            self.window = (first + move, last + move)
        self.redraw()

    def on_click(self, event: events.Click) -> None:
        """The crosshair to where the mouse is."""
        first, last = self._steps()
        if self.runs and event.x >= LABEL and self._plot_width > 0:
            step = first + (event.x - LABEL + 0.5) * (last - first) / self._plot_width
            self.crosshair = round(min(max(step, 1), max(run.last_step for run in self.runs)))
            self.redraw()

    def on_mouse_scroll_up(self, event: events.MouseScrollUp) -> None:
        """Closer."""
        event.stop()
        self.zoom(0.5)

    def on_mouse_scroll_down(self, event: events.MouseScrollDown) -> None:
        """Farther."""
        event.stop()
        self.zoom(2.0)

    def reading(self) -> Reading | None:
        """The values under the crosshair, None without one."""
        if self.crosshair is None or not self.runs:
            return None
        run, step = self.runs[0], self.crosshair
        smoothed = run.smoothed.at(step)
        before = [pair for pair in run.validations if pair[0] <= step]
        return Reading(
            step, run.loss.at(step), None if smoothed is None else smoothed[2],
            before[-1] if before else None,
        )  # fmt: skip

    # ---- drawing ---------------------------------------------------------------------------------------------------

    def notify_style_update(self) -> None:
        """Theme or focus changed."""
        super().notify_style_update()
        self._drawn = []

    def render_line(self, y: int) -> Strip:
        """A line of the chart; all of them are drawn at once."""
        if not self._drawn or self._drawn_size != self.size:
            self._drawn_size = self.size
            self._drawn = self._draw()
        return (
            self._drawn[y]
            if y < len(self._drawn)
            else Strip.blank(self.size.width, self.rich_style)
        )

    @property
    def _plot_width(self) -> int:
        return max(self.size.width - LABEL, 0)

    @property
    def _plot_height(self) -> int:
        return max(self.size.height - 3, 1)

    def _all_steps(self) -> tuple[float, float]:
        last = max((max(run.last_step, 1) for run in self.runs), default=1)
        return 0.0, float(max(last, LEAST_STEPS))

    def _steps(self) -> tuple[float, float]:
        return self._all_steps() if self.window is None else self.window

    def _draw(self) -> list[Strip]:
        width, height = self._plot_width, self._plot_height
        if width < 4:
            return []
        if all(run.last_step == 0 for run in self.runs):
            return self._nothing_yet()
        glyphs = self.glyphs
        first, last = self._steps()
        across, down = width * glyphs.across, height * glyphs.down
        several = len(self.runs) > 1
        data = [self._columns(run, first, last, across) for run in self.runs]
        low, high = self._range(data, several)
        layers: list[np.ndarray] = []
        styles: list[Style] = []
        marks = ""

        def put(layer: np.ndarray, name: str, mark: str) -> None:
            nonlocal marks
            layers.append(layer)
            styles.append(self._style(name))
            marks += mark

        def at(values: np.ndarray) -> np.ndarray:
            return heights(values, low, high, down, self.log_scale)

        for number, (loss, smoothed, validation) in enumerate(data):
            color = RUN_COLORS[number % len(RUN_COLORS)]
            mark = RUN_MARKS[number % len(RUN_MARKS)] if several else LINE_MARK
            if not several and self.shown != "smoothed":
                put(band(at(loss.low), at(loss.high), down), "band", BAND_MARK)
                if self.shown == "every step":
                    put(line(at(loss.mean), down), color, mark)
            if several or self.shown != "every step":
                put(line(at(smoothed.mean), down), color, mark)
            dotted = line(at(validation), down)
            dotted[:, np.arange(across) % (3 * glyphs.across) >= 2 * glyphs.across] = False
            put(dotted, color if several else "validation", mark if several else VALIDATION_MARK)
        if not layers:
            put(np.zeros((down, across), bool), "band", BAND_MARK)
        codes, owner = cells(layers, glyphs, marks)
        self._mark(codes, owner, styles, first, last, low, high)
        return self._strips(codes, owner, styles, first, last, low, high)

    def _nothing_yet(self) -> list[Strip]:
        """A sentence in the middle: axes without a curve would only pretend."""
        width, height = self.size
        style = self._style("label") + Style(italic=True)
        lines = [Strip.blank(width, self.rich_style)] * height
        text = NO_LOSS.center(width)[:width]
        lines[height // 2] = Strip([Segment(text, style)], width)
        return lines

    def _columns(
        self, run: RunView, first: float, last: float, across: int
    ) -> tuple[Columns, Columns, np.ndarray]:
        loss = run.loss.columns(first, last, across)
        smoothed = run.smoothed.columns(first, last, across)
        validation = np.full(across, np.nan)
        if run.validations:
            steps, values = (np.array(part, float) for part in zip(*run.validations, strict=True))
            half = (last - first) / across / 2
            centres = np.linspace(first + half, last - half, across)
            inside = (centres >= steps[0] - half) & (centres <= steps[-1] + half)
            validation[inside] = np.interp(centres[inside], steps, values)
        return loss, smoothed, validation

    def _range(
        self, data: Iterable[tuple[Columns, Columns, np.ndarray]], several: bool
    ) -> tuple[float, float]:
        parts = []
        for loss, smoothed, validation in data:
            parts += [smoothed.mean, validation]
            if not several and self.shown != "smoothed":
                parts += [loss.low, loss.high]
        if parts and self.window is None and not self.log_scale:
            # The first steps fall from pure guessing, and would press all that follows to the bottom: they come in
            # from above instead.
            later = [part[int(part.size * OPENING_SHARE) :] for part in parts]
            if np.isfinite(np.concatenate(later)).any():
                parts = later
        values = np.concatenate(parts) if parts else np.empty(0)
        values = values[np.isfinite(values)]
        if values.size == 0:
            return 0.0, 1.0
        low, high = float(values.min()), float(values.max())
        if self.log_scale and low > 0:
            grow = (high / low) ** MARGIN if high > low else 1.05
            return low / grow, high * grow
        grow = (high - low) * MARGIN or abs(high) * 0.05 or 1.0
        return low - grow, high + grow

    def _style(self, name: str) -> Style:
        return self.get_component_rich_style(f"loss-chart--{name}")

    def _mark(
        self, codes: np.ndarray, owner: np.ndarray, styles: list[Style],
        first: float, last: float, low: float, high: float,
    ) -> None:  # fmt: skip
        """The best validation and the crosshair, on top of the curves."""
        rows, columns = codes.shape
        if self.crosshair is not None and first <= self.crosshair <= last:
            column = min(int((self.crosshair - first) / (last - first) * columns), columns - 1)
            styles.append(self._style("crosshair"))
            empty = owner[:, column] < 0
            codes[empty, column] = ord("|" if self.glyphs is ASCII else "┊")
            owner[:, column] = len(styles) - 1
        best = self.runs[0].state.best if self.runs else None
        if best is not None and first <= best.step <= last and math.isfinite(best.loss):
            column = min(int((best.step - first) / (last - first) * columns), columns - 1)
            row = int(heights(np.array([best.loss]), low, high, rows, self.log_scale)[0])
            styles.append(self._style("best"))
            codes[row, column] = ord("B" if self.glyphs is ASCII else "◆")
            owner[row, column] = len(styles) - 1

    def _strips(
        self, codes: np.ndarray, owner: np.ndarray, styles: list[Style],
        first: float, last: float, low: float, high: float,
    ) -> list[Strip]:  # fmt: skip
        rows, columns = codes.shape
        base = self.rich_style
        axis, label = self._style("axis"), self._style("label")
        wall = "|" if self.glyphs is ASCII else "│"
        notch = "+" if self.glyphs is ASCII else "┤"
        named: dict[int, float] = {}
        marks = ticks(low, high, max(2, rows // 2), self.log_scale)
        digits = digits_of(marks)
        for value in marks:
            row = int(heights(np.array([value]), low, high, rows, self.log_scale)[0])
            named.setdefault(row, value)
        strips = [self._legend(base)]
        for row in range(rows):
            mark = named.get(row)
            text = "" if mark is None else number_text(mark, digits)
            segments = [
                Segment(f"{text:>{LABEL - 1}}"[: LABEL - 1], label),
                Segment(wall if mark is None else notch, axis),
            ]
            shown = codes[row].astype("<u4").tobytes().decode("utf-32-le")
            borders = np.flatnonzero(np.diff(owner[row])) + 1
            begin = 0
            for end in (*borders.tolist(), columns):
                who = int(owner[row, begin])
                segments.append(Segment(shown[begin:end], base if who < 0 else styles[who]))
                begin = end
            strips.append(Strip(segments, LABEL + columns))
        strips.append(self._axis(first, last, columns, axis, label))
        strips.append(self._step_numbers(first, last, columns, label, base))
        return strips

    def _legend(self, base: Style) -> Strip:
        """What the lines are, with their latest values or those under the crosshair."""
        width = self.size.width
        plain = self.glyphs is ASCII
        dashes, dash, dots, gem = (BAND_MARK, LINE_MARK, VALIDATION_MARK, "B") if plain else "━━┅◆"
        label = self._style("label")
        notes = ["log"] if self.log_scale else []
        if self.window is not None:
            notes.append("zoomed")
        parts: list[tuple[str, Style]] = [(f"{name}  ", label) for name in notes]
        if len(self.runs) > 1:
            if self.crosshair is not None:
                parts.append((f"step {self.crosshair:,}: ", self._style("crosshair")))
            for number, run in enumerate(self.runs):
                style = self._style(RUN_COLORS[number % len(RUN_COLORS)])
                mark = RUN_MARKS[number % len(RUN_MARKS)] if plain else dash
                name = safe_line(run.out.rsplit("/", 1)[-1])[:24]
                parts += [(f"{mark} ", style), (f"{name}{self._smoothed(run)}   ", base)]
        elif self.runs:
            run = self.runs[0]
            reading, last, best = self.reading(), run.state.last, run.state.best
            if reading is not None:
                parts.append((f"step {reading.step:,}: ", self._style("crosshair")))
                loss = "gap" if reading.loss is None else f"{reading.loss[2]:.3f}"
                if reading.loss is not None and reading.loss[1] > reading.loss[0]:
                    loss += f" ({reading.loss[0]:.2f} to {reading.loss[1]:.2f})"
                smoothed = None if reading.smoothed is None else reading.smoothed
                seen = reading.validation
            else:
                loss = "-" if last is None else f"{last.loss:.3f}"
                smoothed = None if last is None else last.smoothed_loss
                seen = run.validations[-1] if run.validations else None
            parts += [(f"{dashes} ", self._style("band")), (f"loss {loss}  ", base)]
            if smoothed is not None:
                parts += [(f"{dash} ", self._style("line")), (f"smoothed {smoothed:.3f}  ", base)]
            if seen is not None:
                text = f"validation {seen[1]:.3f}"
                parts += [(f"{dots} ", self._style("validation")), (f"{text}  ", base)]
            if best is not None and reading is None:
                parts += [
                    (f"{gem} ", self._style("best")),
                    (f"best {best.loss:.3f}", base),
                    (f" ({best.bits_per_byte:.3f} bits/byte)" if width >= WIDE else "", base),
                ]
        return Strip([Segment(" ", base), *(Segment(*part) for part in parts)]).adjust_cell_length(
            width, base
        )

    def _smoothed(self, run: RunView) -> str:
        """The smoothed loss of one run among several, at the crosshair or the latest; nothing where there is none."""
        if self.crosshair is None:
            last = run.state.last
            return "" if last is None else f" {last.smoothed_loss:.3f}"
        there = run.smoothed.at(self.crosshair)
        return " -" if there is None else f" {there[2]:.3f}"

    def _axis(self, first: float, last: float, columns: int, axis: Style, label: Style) -> Strip:
        """The line under the plot, with the phases of the learning rate where there is room for their names."""
        flat, corner, tee = ("-", "+", "+") if self.glyphs is ASCII else ("─", "└", "┴")
        row = [flat] * columns
        named: list[tuple[int, int]] = []
        if len(self.runs) == 1:
            for phase in self.runs[0].phases:
                begin = round((max(phase.first, first) - first) / (last - first) * columns)
                end = round((min(phase.last, last) - first) / (last - first) * columns)
                if end - begin < 1 or phase.last <= first or phase.first >= last:
                    continue
                if 0 < begin < columns:
                    row[begin] = tee
                name = f" lr {phase.kind} "
                if len(name) + 2 <= end - begin:
                    start = begin + (end - begin - len(name)) // 2
                    row[start : start + len(name)] = name
                    named.append((start, start + len(name)))
        segments = [Segment(" " * (LABEL - 1) + corner, axis)]
        at = 0
        for start, end in named:
            segments.append(Segment("".join(row[at:start]), axis))
            segments.append(Segment("".join(row[start:end]), label))
            at = end
        segments.append(Segment("".join(row[at:]), axis))
        return Strip(segments, LABEL + columns)

    def _step_numbers(
        self, first: float, last: float, columns: int, label: Style, base: Style
    ) -> Strip:
        row = [" "] * (LABEL + columns)
        free = 0
        for value in ticks(first, last, max(2, columns // 14), log=False):
            text = f"{value:,.0f}"
            start = LABEL + round((value - first) / (last - first) * columns) - len(text) // 2
            start = min(max(start, 0), len(row) - len(text))
            if start >= free and value == round(value):
                row[start : start + len(text)] = text
                free = start + len(text) + 2
        return Strip([Segment("".join(row), label)], len(row)).adjust_cell_length(
            self.size.width, base
        )


def digits_of(values: Sequence[float]) -> int:
    """After the point, as many as tell all of these numbers; at most three."""
    for digits in range(3):
        if all(abs(value - round(value, digits)) < 1e-9 for value in values):
            return digits
    return 3


def number_text(value: float, digits: int) -> str:
    """A number of the scale in at most five characters."""
    if abs(value) >= 10_000:
        return f"{value:.0e}".replace("e+0", "e")
    return f"{value:.{digits}f}"


def glyphs_for(plain: bool, terminal: str) -> Glyphs:
    """What a terminal can show: the Linux console has no braille in its font."""
    return ASCII if plain else BLOCKS if terminal == "linux" else BRAILLE
