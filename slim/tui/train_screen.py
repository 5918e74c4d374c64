"""Training: the form for a run, and the live monitor of one, of this process or of another."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, cast

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.widgets import ContentSwitcher, Footer, Input, Static

from slim.atomic_file import PREVIOUS_SUFFIX
from slim.errors import DivergedError, SaveError, SlimError
from slim.run_directory import directory_of
from slim.safe_text import safe_line
from slim.tui.event_log import EventLog
from slim.tui.gauges import Gauges, memory_of
from slim.tui.loss_chart import LossChart, glyphs_for
from slim.tui.run_view import RunView
from slim.tui.samples import Samples
from slim.tui.session import LocalRun
from slim.tui.top_bar import TopBar
from slim.tui.train_form import TrainForm
from slim.tui.whole_screen import WholeScreen
from slim.wording import duration, farewell, stage_line

if TYPE_CHECKING:
    from slim.tui.app import SlimApp
    from slim.tui.run_follower import FollowedRun

# Between two drawings of what changes with every step: together, for each drawing looks at the whole screen. More where
# the thread that draws would take a greater share of a core from the training: a large terminal, a slow machine.
SECONDS_BETWEEN_DRAWINGS = (1.0, 2.0, 4.0)
LEAST_SHARE, MOST_SHARE = 0.012, 0.03


class Monitor(Vertical):
    """The run that is shown."""


class TrainScreen(WholeScreen[None]):
    """Form and monitor."""

    VERTICAL_BREAKPOINTS = [(0, "-low"), (22, "-usual"), (30, "-tall")]  # noqa: RUF012 (as Textual declares it)
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+r,f9", "start", "Start", tooltip="start the training"),
        Binding("space", "pause", "Pause", tooltip="pause training, or go on"),
        Binding("s", "save", "Save", tooltip="save now, and go on"),
        Binding("x", "stop", "Stop", tooltip="finish the step, save and stop"),
        Binding("r", "resume", "Resume", tooltip="go on with a run that was stopped"),
        Binding("m", "use_model", "Its model", tooltip="write and chat with the run's best model"),
        Binding("n", "new_run", "New", tooltip="the form for a new run"),
        Binding("l", "log", "Log", tooltip="the log in place of the samples, and back"),
        Binding("y", "log_scale", "Log scale", show=False, tooltip="logarithmic or linear scale"),
        Binding("e", "smoothing", "Smoothing", show=False, tooltip="every step, smoothed, or both"),
        Binding("plus,equals_sign", "zoom(0.5)", "Zoom", show=False, tooltip="zoom in"),
        Binding("minus", "zoom(2.0)", "Zoom", show=False, tooltip="zoom out"),
        Binding("0", "reset", "Reset", show=False, tooltip="the whole run, no crosshair"),
        Binding("g", "glyphs", "Glyphs", show=False, tooltip="braille, blocks or ASCII"),
        Binding("c", "confidence", "Confidence", show=False, tooltip="confidence: off, underline, shade, numbers"),
        Binding("escape", "leave", "Back", show=False),
        Binding("left_square_bracket", "sample(-1)", "Samples", show=False, tooltip="an earlier sample to compare"),
        Binding("right_square_bracket", "sample(1)", "Samples", show=False, tooltip="a later sample to compare"),
    ]  # fmt: skip
    CSS = """
    TrainScreen ContentSwitcher { height: 1fr; }
    TrainScreen #status { height: 1; padding: 0 1; background: $surface; text-wrap: nowrap; text-overflow: ellipsis; }
    TrainScreen #notice { display: none; height: auto; max-height: 6; padding: 0 1; background: $surface; }
    TrainScreen.-notice #notice { display: block; }
    TrainScreen #body { height: 1fr; }
    TrainScreen #left { height: 1fr; }
    TrainScreen #chart { height: 1fr; }
    TrainScreen #right { height: 8; }
    TrainScreen.-low #right { height: 5; }
    TrainScreen.-tall #right { height: 45%; }
    TrainScreen #log { height: 1fr; display: none; }
    TrainScreen #samples { height: 1fr; }
    TrainScreen.-log #log { display: block; }
    TrainScreen.-log #samples { display: none; }
    TrainScreen.-low Samples #when-then, TrainScreen.-low Samples #then { display: none; }
    TrainScreen.-wide #body { layout: horizontal; }
    TrainScreen.-wide #left { width: 3fr; height: 1fr; }
    TrainScreen.-wide #right { width: 2fr; height: 1fr; border-left: vkey $secondary 40%; }
    TrainScreen.-wide.-ascii #right { border-left: ascii $secondary 40%; }
    TrainScreen.-wide #log { display: block; height: 1fr; border-top: hkey $secondary 40%; }
    TrainScreen.-wide.-ascii #log { border-top: ascii $secondary 40%; }
    TrainScreen.-wide #samples { display: block; height: 2fr; }
    TrainScreen.-wide.-log #log { height: 3fr; }
    """

    def __init__(self) -> None:
        super().__init__()
        self._shown: LocalRun | FollowedRun | None = None
        self._shown_view: RunView | None = None
        self._form_wanted = False
        self._form_of = Path()  # what the form was filled in for; told to a screen that is still being made, too
        self._made = False
        self._from_form: LocalRun | None = None  # the last that the form began
        self._drawn_at = self._computed = 0.0  # clock and processor time of the last drawing
        self._pace = 0  # which of SECONDS_BETWEEN_DRAWINGS
        self._status: tuple[object, ...] | None = None
        self._notice_shown: Content | None = None
        self._memory: int | None = None  # of the process that trains, as far as it was known

    @property
    def slim_app(self) -> SlimApp:
        """The app, with its type."""
        return cast("SlimApp", self.app)

    @property
    def run_shown(self) -> LocalRun | FollowedRun | None:
        """The run that the monitor shows in detail."""
        watched = self.slim_app.session.watched
        return watched[0] if watched else None

    @property
    def chart(self) -> LossChart:
        return self.query_one(LossChart)

    @property
    def samples(self) -> Samples:
        return self.query_one(Samples)

    @property
    def form(self) -> TrainForm:
        return self.query_one(TrainForm)

    def compose(self) -> ComposeResult:
        """Top bar, then the form or the monitor, then the keys."""
        plain = self.slim_app.ascii_only
        yield TopBar("train")
        with ContentSwitcher(initial="form"):
            yield TrainForm(id="form")
            with Monitor(id="monitor"):
                yield Static("", id="status")
                yield Static("", id="notice")
                with Vertical(id="body"):
                    with Vertical(id="left"):
                        yield LossChart(glyphs_for(plain, os.environ.get("TERM", "")), id="chart")
                        yield Gauges(plain, id="gauges")
                    with Vertical(id="right"):
                        yield Samples(plain, id="samples")
                        yield EventLog(id="log")
        yield Footer(show_command_palette=False)

    def on_mount(self) -> None:
        """Look at the run with every tick."""
        self.set_class(self.slim_app.ascii_only, "-ascii")
        self.slim_app.ticked.subscribe(self, lambda _: self._tick(), immediate=True)
        self._made = True
        self.form.fill(self._form_of)
        self._choose_content()

    def on_screen_resume(self) -> None:
        """Another run may be shown now."""
        self._choose_content()

    def show_form(self, path: Path) -> None:
        """The form, filled in for a text, for a base to finetune, or (an empty path) for the stories."""
        self._form_wanted, self._form_of = True, path
        if self._made:
            self._choose_content()
            self.form.fill(path)

    # ---- drawing ---------------------------------------------------------------------------------------------------

    def _choose_content(self) -> None:
        run = self.run_shown
        if run is None or self._form_wanted:
            self.query_one(ContentSwitcher).current = "form"
            self.refresh_bindings()
            return
        self.query_one(ContentSwitcher).current = "monitor"
        if run is not self._shown or run.view is not self._shown_view:
            self._shown, self._shown_view = run, run.view
            self._status = None
            self._memory = None
            self.chart.set_runs([one.view for one in self.slim_app.session.watched])
            self.samples.chosen = 0
            several = len(self.slim_app.session.watched) > 1
            self.samples.whose = f"{safe_line(run.name)}, " if several else ""
            if (
                self.focused is None
                or not self.focused.display
                or self.form in self.focused.ancestors
            ):
                self.chart.focus()
        self.refresh_bindings()
        self._draw(now=True)

    def _tick(self) -> None:
        if not self.is_current:
            return
        run = self.run_shown
        if run is None or self._form_wanted:
            return
        if run is not self._shown or run.view is not self._shown_view:
            self._choose_content()
        views = [one.view for one in self.slim_app.session.watched]
        if views != self.chart.runs:
            self.chart.runs = views
        self._draw()

    def _draw(self, now: bool = False) -> None:
        """What is new since it was drawn last, each part as often as it may."""
        run = self._shown
        if run is None:
            return
        clock, view = time.monotonic(), run.view
        due = now or clock - self._drawn_at >= SECONDS_BETWEEN_DRAWINGS[self._pace]
        self._draw_status(run, due)
        if due:
            if run.training and not now:
                self._choose_pace(clock - self._drawn_at)
            self._drawn_at, self._computed = clock, time.thread_time()
            self.chart.redraw(if_changed=not now)
            self._draw_gauges(run)
        self.samples.show(view)
        self.query_one(EventLog).show(view)

    def _choose_pace(self, seconds: float) -> None:
        """By the share of a core that this thread took since the last drawing."""
        share = (time.thread_time() - self._computed) / seconds
        if share > MOST_SHARE:
            self._pace = min(self._pace + 1, len(SECONDS_BETWEEN_DRAWINGS) - 1)
        elif share < LEAST_SHARE:
            self._pace = max(self._pace - 1, 0)

    def _draw_gauges(self, run: LocalRun | FollowedRun) -> None:
        memory = None
        if run.training:
            memory = memory_of(None if isinstance(run, LocalRun) else run.trainer)
        if memory is not None:
            run.view.memory.add(float(memory))
        self._memory = memory or self._memory
        self.query_one(Gauges).show(run.view, self._memory)

    def _draw_status(self, run: LocalRun | FollowedRun, due: bool) -> None:
        """The status line: at once where the run does something else, and its numbers when they are `due`."""
        view = run.view
        stopping = isinstance(run, LocalRun) and run.control.stop
        saving = isinstance(run, LocalRun) and run.control.save_now
        state = (view.version, run.training, run.paused, stopping, saving, self.size.width)
        before = self._status
        if state == before or (not due and before is not None and before[1:] == state[1:]):
            return
        self._status = state
        if before is None or before[1:5] != state[1:5]:
            self.refresh_bindings()
        # A new layout of the screen costs more than all that is drawn, and none of these lines changes its size.
        line = self._status_line(run, stopping, saving)
        self.query_one("#status", Static).update(line, layout=False)
        notice = self._notice(run)
        self.set_class(notice is not None, "-notice")
        if notice is not None and notice != self._notice_shown:
            self.query_one("#notice", Static).update(notice)
        self._notice_shown = notice

    def _status_line(self, run: LocalRun | FollowedRun, stopping: bool, saving: bool) -> Content:
        view = run.view
        state, last = view.state, view.state.last
        plain = self.slim_app.ascii_only
        if state.stage is not None and run.training:
            stage = state.stage
            return Content.assemble(
                (bar(stage.done, stage.total, 20, plain), "$primary"),
                " ",
                safe_line(stage_line(stage)),
            )
        if state.started is None:
            return Content("reading the text" if run.training else "nothing has been reported yet")
        total = view.total_steps
        share = 100 * state.step // total if total else 0
        width = min(14 + max(self.size.width - 90, 0) // 3, 40)
        done = (bar(state.step, total, width, plain), "$primary")
        percent = (f" {share} %  ", "bold")
        word = self._word(run, stopping, saving)
        doing = (f"{word}  " if word else "", "bold $accent")
        step, gone, left, epoch = f"step {state.step:,}/{total:,}", "", "", ""
        if last is not None:
            gone = f"  {duration(last.elapsed_seconds)} gone"
            if run.training and state.finished is None:
                left = f", {duration(last.eta_seconds)} left"
            epoch = f"  epoch {last.epoch:.2f}"
        # As much as there is room for; the step, the time that is left and what it does stand longest.
        wordings = (
            (done, percent, doing, step, gone, left, epoch),
            (done, percent, doing, step, gone, left),
            (done, percent, doing, step, left.replace(",", " ") or gone),
            (done, percent, doing, step),
            (percent, doing, step, left.replace(",", " ") or gone),
        )
        lines = [Content.assemble(*wording) for wording in wordings]
        return next((line for line in lines if line.cell_length < self.size.width - 1), lines[-1])

    @staticmethod
    def _word(run: LocalRun | FollowedRun, stopping: bool, saving: bool) -> str:
        """What the run does, where it does not just train."""
        finished = run.view.state.finished
        if not run.training:
            return "ended" if finished is None else finished.reason.replace("_", " ")
        if stopping:
            return "stopping, saves first"
        if run.paused:
            return "paused, saves with the next step" if saving else "paused"
        if saving:
            return "saves after this step"
        return "" if isinstance(run, LocalRun) else f"by process {run.trainer}"

    def _notice(self, run: LocalRun | FollowedRun) -> Content | None:
        """What happened, what is saved and what to do, where the run has ended; None while it goes."""
        view = run.view
        if run.training and view.problem is None:
            return None
        if view.problem is not None:
            return Content.assemble(
                (safe_line(view.problem), "$error bold"), "\n", safe_line(self._what_is_saved(view)), "\n",
                self._what_next(run),
            )  # fmt: skip
        finished = view.state.finished
        if _never_began(run):
            words = ["it ended before the first step"] if finished is None else farewell(finished, view.out)
            return Content.assemble(
                (f"{safe_line(words[0])}. ", "$warning bold"), ("n", "$accent bold"), " opens the form"
            )
        if finished is not None:
            words = farewell(finished, view.out)[:2]
            return Content.assemble(
                (safe_line(words[0]), "$success bold"), "; " + safe_line("; ".join(words[1:])), "\n" if words else "",
                ("m", "$accent bold"), " writes and chats with it  ", ("n", "$accent bold"), " trains another",
            ) if finished.reason != "interrupted" else Content.assemble(
                (safe_line(words[0]), "$warning bold"), "\n", ("r", "$accent bold"), " goes on where it stopped  ",
                ("m", "$accent bold"), " writes with the best model so far",
            )  # fmt: skip
        offers = [("r", " goes on with it  ")] if _has_checkpoint(run) else [("n", " begins anew  ")]
        if _model_of(run) is not None:
            offers.append(("m", " writes with its best model"))
        return Content.assemble(
            ("No process trains this run now. ", "$warning bold"),
            *(part for key, words in offers for part in ((key, "$accent bold"), words)),
        )

    @staticmethod
    def _what_is_saved(view: RunView) -> str:
        folder = directory_of(view.out)
        saved = view.state.saved
        if saved is not None and os.path.exists(folder / "last"):
            return f"Saved: everything up to step {saved.step:,}, in {folder}."
        if view.state.step:
            return f"Nothing was saved; the log is in {folder}."
        return "Nothing was begun, so there was nothing to be saved."

    def _what_next(self, run: LocalRun | FollowedRun) -> Content:
        key = "$accent bold"
        problem = run.problem
        can_go_on = _has_checkpoint(run)
        if isinstance(problem, SaveError):
            then = " goes on." if can_go_on else " begins anew."
            return Content.assemble(
                "Make room or choose another place, then ", ("r" if can_go_on else "n", key), then
            )
        if isinstance(problem, DivergedError):
            return Content.assemble(
                ("n", key), " begins anew, with a lower learning rate or a smaller model."
            )
        if run.view.state.step and not can_go_on:
            return Content.assemble(("n", key), " begins anew.")
        if run.view.state.step:
            return Content.assemble(
                ("r", key), " goes on from there, ", ("n", key), " begins anew."
            )
        return Content.assemble(("n", key), " opens the form", " again." if run is self._from_form else ".")

    # ---- keys ------------------------------------------------------------------------------------------------------

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Keys that make no sense now are not offered."""
        run = self.run_shown
        monitor = run is not None and not self._form_wanted
        own = isinstance(run, LocalRun) and run.training
        if action == "start":
            return not monitor
        if action in ("pause", "save", "stop"):
            return monitor and own
        if action == "resume":
            return monitor and run is not None and not run.training and not self._is_done(run) and _has_checkpoint(run)
        if action == "use_model":
            return monitor and run is not None and (run.training or _model_of(run) is not None)
        if action == "new_run":
            return monitor and not self.slim_app.session.training
        if action in (
            "log",
            "log_scale",
            "smoothing",
            "zoom",
            "reset",
            "glyphs",
            "confidence",
            "sample",
        ):
            return monitor
        return True

    @staticmethod
    def _is_done(run: LocalRun | FollowedRun) -> bool:
        finished = run.view.state.finished
        return finished is not None and finished.reason != "interrupted"

    @property
    def _own(self) -> LocalRun | None:
        run = self.run_shown
        return run if isinstance(run, LocalRun) and run.training else None

    def action_pause(self) -> None:
        """Pause, or go on."""
        run = self._own
        if run is not None:
            if run.job.paused:
                run.job.resume()
            else:
                run.job.pause()
            self._draw()

    def action_save(self) -> None:
        """Save after this step."""
        run = self._own
        if run is not None:
            run.control.save_now = True
            self._draw()

    def action_stop(self) -> None:
        """Finish the step, save and end."""
        run = self._own
        if run is not None:
            run.control.stop = True
            run.job.resume()
            self._draw()

    def action_resume(self) -> None:
        """Go on with a run that was stopped, in this process."""
        run, app = self.run_shown, self.slim_app
        if run is None or run.training:
            return
        if app.session.training:
            self.notify("one run at a time trains in this window", severity="warning")
            return
        app.began(app.session.resume(run.out))
        self._choose_content()

    def action_use_model(self) -> None:
        """Open the best model of the run."""
        run, app = self.run_shown, self.slim_app
        if run is None:
            return
        path = _model_of(run)
        if path is not None:
            app.open_model(path)
        elif run is self._own and app.session.model_in_training is not None:
            app.session.opened = None
            app.session_changed.publish(None)
            app.action_page("generate")
        else:
            self.notify(
                "no model has been saved yet: the first one comes with the first validation",
                timeout=5,
            )

    def action_new_run(self) -> None:
        """The form again: as it was filled in for a run that came to nothing, else for a new one."""
        run = self.run_shown
        if run is not None and run is self._from_form and not run.training and not _has_checkpoint(run):
            self._form_wanted = True
            self._choose_content()
            self.form.field("data").focus()
        else:
            self.show_form(Path())

    def action_start(self) -> None:
        """Begin the run of the form, wherever the focus is."""
        self.form.start()

    def on_train_form_start(self, event: TrainForm.Start) -> None:
        """Begin the run that was asked for."""
        app = self.slim_app
        if app.session.training:
            self.notify("one run at a time trains in this window", severity="warning")
            return
        self._form_wanted = False
        try:
            self._from_form = app.session.start(event.request)
            app.began(self._from_form)
        except SlimError as problem:
            app.complain(problem)
        self._choose_content()

    def action_leave(self) -> None:
        """Out of a field, then from the form to the monitor, where there is one, then back."""
        if isinstance(self.focused, Input):
            self.set_focus(None)
        elif self._form_wanted and self.run_shown is not None:
            self._form_wanted = False
            self._choose_content()
        else:
            self.slim_app.action_back()

    def action_log(self) -> None:
        """The log in place of the samples; where there is room for both, more of it."""
        self.toggle_class("-log")

    def action_log_scale(self) -> None:
        """Logarithmic or linear."""
        self.chart.toggle_log()

    def action_smoothing(self) -> None:
        """Which losses are drawn."""
        self.notify(f"loss: {self.chart.cycle_shown()}", timeout=2)

    def action_zoom(self, factor: float) -> None:
        """Closer or farther."""
        self.chart.zoom(factor)

    def action_reset(self) -> None:
        """Everything."""
        self.chart.reset()

    def action_glyphs(self) -> None:
        """Other characters for the curves."""
        self.notify(f"curves in {self.chart.cycle_glyphs()}", timeout=2)

    def action_confidence(self) -> None:
        """Another way to show confidence."""
        for text in self.samples.texts:
            text.action_confidence()

    def action_sample(self, move: int) -> None:
        """Another earlier sample."""
        if self._shown is not None:
            self.samples.choose(self._shown.view, move)


def _never_began(run: LocalRun | FollowedRun) -> bool:
    """Whether it ended before there was anything to go on with or to write with."""
    if run.training or run.view.state.step:
        return False
    return not _has_checkpoint(run) and _model_of(run) is None


def _has_checkpoint(run: LocalRun | FollowedRun) -> bool:
    """Whether it can go on."""
    folder = directory_of(run.out)
    return any(os.path.exists(folder / name) for name in ("last", f"last{PREVIOUS_SUFFIX}"))


def _model_of(run: LocalRun | FollowedRun) -> Path | None:
    """The file of its best model so far."""
    paths = (Path(run.out), directory_of(run.out) / "best")
    return next((path for path in paths if os.path.isfile(path)), None)


def bar(done: int, total: int, width: int, ascii_only: bool) -> str:
    """How much is done, as a bar."""
    filled = min(width, width * done // total) if total > 0 else 0
    full, rest = ("#", "-") if ascii_only else ("━", "─")
    return full * filled + rest * (width - filled)
