"""The live picture of a training run: at most 22 lines, readable at 80x24, redrawn four times a second."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from slim.events import EvalFinished, Event, Note, Progress, RunStarted, StepSkipped
from slim.run_state import ASCII_BLOCKS, BLOCKS, RunState, sparkline
from slim.safe_text import safe_text
from slim.wording import duration, introduction, stage_line

SECONDS_BETWEEN_FRAMES = 0.25
LINES = 22
CURVE_WIDTH = 24


class LiveDisplay:
    """Draws the state of a run in place, on stderr; notes scroll by above it."""

    def __init__(
        self,
        title: str,
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._title = title
        self._console = console or Console(stderr=True, highlight=False)
        self._clock = clock
        self._drawn = -1.0
        self._state = RunState()
        self._stopping = ""
        self._sample_lines = 0  # the most so far: a picture that shrinks and grows is restless
        self._live = Live(console=self._console, auto_refresh=False, transient=False)
        self._live.start()

    def show(self, event: Event) -> None:
        """Take in one event; draw if a frame is due."""
        self._state.add(event)
        match event:
            case Note(level="warning"):
                self._above(f"warning: {event.text}", "yellow")
            case Note():
                self._above(event.text, "")
            case StepSkipped():
                self._above(f"warning: step {event.step} was skipped: {event.reason}", "yellow")
            case RunStarted():
                for line in introduction(event):
                    self._above(line, "dim")
        if (
            isinstance(event, (RunStarted, EvalFinished))
            or self._clock() - self._drawn >= SECONDS_BETWEEN_FRAMES
        ):
            self._draw()

    def say(self, text: str) -> None:
        """A line above the picture, or below it once it is closed."""
        self._above(text, "")

    def stopping(self, words: str) -> None:
        """The person asked for an end: the last line says that it was heard."""
        self._stopping = words
        self._draw()

    def close(self) -> None:
        """Leave the last frame standing."""
        if self._live.is_started:
            self._draw(final=True)
            self._live.stop()

    def _above(self, text: str, style: str) -> None:
        self._console.print(Text(safe_text(text), style=style), soft_wrap=False)

    def _draw(self, final: bool = False) -> None:
        self._drawn = self._clock()
        lines = min(self._console.size.height - 2, LINES)
        self._live.update(self.picture(self._console.size.width, lines, final), refresh=True)

    def picture(self, width: int, lines: int, final: bool = False) -> RenderableType:
        """The whole picture in at most `lines` lines."""
        state = self._state
        rows: list[RenderableType] = [Text(safe_text(self._title), style="bold", no_wrap=True)]
        if state.stage is not None and not final:
            rows.append(self._stage(state.stage, width))
        if state.started is not None:
            rows += [self._steps(width), self._speed(), Text(""), self._numbers(width)]
        hint = None if final else self._hint()
        used = sum(2 if isinstance(row, Table) and row.row_count == 2 else 1 for row in rows)
        room = lines - used - (1 if hint is None else 3)
        if state.sample_prompt is not None and room > 1:
            rows += [Text(""), *self._sample(width, room)]
        if hint is not None:
            rows += [Text(""), hint]
        return Group(*rows)

    def _stage(self, stage: Progress, width: int) -> Table:
        return self._bar(stage.done, stage.total, stage_line(stage), width)

    def _steps(self, width: int) -> Table:
        assert self._state.started is not None
        total = self._state.started.total_steps
        share = 100 * self._state.step // total if total else 0
        return self._bar(
            self._state.step, total, f"step {self._state.step}/{total}  {share} %", width
        )

    def _bar(self, done: int, total: int, label: str, width: int) -> Table:
        table = Table.grid(padding=(0, 2))
        bar = ProgressBar(
            total=max(total, 1), completed=done, width=max(width - len(label) - 3, 10)
        )
        table.add_row(bar, Text(label, no_wrap=True))
        return table

    def _speed(self) -> Text:
        last = self._state.last
        if last is None:
            return Text("the first step is being computed", style="dim")
        parts = [
            f"{duration(last.elapsed_seconds)} gone, {duration(last.eta_seconds)} left",
            f"{last.tokens_per_second:,.0f} tokens/s",
            f"epoch {last.epoch:.2f}",
            f"lr {last.learning_rate:.2g}",
        ]
        return Text(" · ".join(parts) if self._unicode else "  ".join(parts), no_wrap=True)

    def _numbers(self, width: int) -> Table:
        """Losses as numbers and as lines: one row for training, one for validation."""
        state = self._state
        table = Table.grid(padding=(0, 2))
        curve = min(CURVE_WIDTH, max(width - 56, 0))
        if state.last is not None:
            table.add_row(
                "loss",
                Text(f"{state.last.loss:.3f}", style="bold"),
                f"smoothed {state.last.smoothed_loss:.3f}",
                Text(self._spark(state.losses.columns(curve)), style="cyan"),
                f"from {state.first_loss:.2f}" if state.first_loss is not None else "",
            )
        else:
            table.add_row("loss", "-")
        shown = state.evaluation
        if shown is None:
            table.add_row("validation", "-")
        else:
            best = state.best
            table.add_row(
                "validation",
                Text(f"{shown.loss:.3f}", style="bold"),
                f"{shown.bits_per_byte:.3f} bits/byte",
                Text(self._spark(state.validations.columns(curve)), style="cyan"),
                ""
                if best is None
                else "best"
                if best is shown
                else f"best {best.bits_per_byte:.3f}",
            )
        return table

    def _sample(self, width: int, room: int) -> list[Text]:
        """The sample that is being written, its beginning where there is no room for all."""
        state = self._state
        head = Text(f"What it writes after step {state.sample_step}:", style="dim", no_wrap=True)
        text = Text(safe_text(state.sample_prompt or ""), style="bold")
        text.append(safe_text(state.sample_text), style="not bold")
        lines = text.wrap(self._console, max(width - 4, 20))
        body = [Text("  ").append_text(line) for line in lines[: room - 1]]
        self._sample_lines = min(max(self._sample_lines, len(body)), room - 1)
        return [head, *body, *[Text("")] * (self._sample_lines - len(body))]

    def _hint(self) -> Text:
        if self._stopping:
            return Text(self._stopping, style="bold", no_wrap=True)
        saved = self._state.saved
        where = f"; last saved at step {saved.step}" if saved is not None else ""
        return Text(f"Ctrl-C stops and saves{where}", style="dim", no_wrap=True)

    @property
    def _unicode(self) -> bool:
        return "utf" in (self._console.encoding or "").lower()

    def _spark(self, values: Sequence[float]) -> str:
        return sparkline(values, BLOCKS if self._unicode else ASCII_BLOCKS)
