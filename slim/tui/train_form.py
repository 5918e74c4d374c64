"""The form for a run that is to be begun: which text, what kind of model, for how long, and what that will take."""

from __future__ import annotations

import dataclasses
import math
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, cast

from textual.app import ComposeResult
from textual.containers import Horizontal, VerticalScroll
from textual.content import Content
from textual.message import Message
from textual.widget import Widget
from textual.widgets import Button, Input, Label, Select, Static

from slim.config import PRESETS
from slim.demo_text import STORIES, demo_text
from slim.errors import SlimError, UsageError
from slim.input_file import typed_path
from slim.request import Request
from slim.run_directory import directory_of
from slim.safe_text import safe_line
from slim.settings import Settings
from slim.tui.catalog import looks_like_model
from slim.tui.dialogs import PathSuggester
from slim.tui.estimate import Estimate, estimating
from slim.tui.safe_input import SafeInput
from slim.wording import FIRST_RUN, duration, mega

if TYPE_CHECKING:
    from slim.compute import Job
    from slim.tui.app import SlimApp

COMMANDS = (
    ("pretrain: a new model of a text", "pretrain"),
    ("train: a small text, quickly", "train"),
    ("finetune: teach a model another text", "finetune"),
)
AUTOMATIC = "fitting the text"
SECONDS_OF_PATIENCE = 0.5  # an estimate takes a tenth of that, unless something else is computed
DEFAULT_MINUTES = "10"
MOST = ENDLESS = 1_000_000.0  # minutes, epochs; and epochs where only the minutes end a run


class Field(Horizontal):
    """A label and what is filled in."""

    def __init__(self, label: str, control: Widget, hint: str = "", id: str | None = None) -> None:
        super().__init__(id=id)
        self._parts = (Label(label, classes="label"), control, Label(hint, classes="hint"))

    def compose(self) -> ComposeResult:
        """In a row."""
        yield from self._parts


class TrainForm(VerticalScroll):
    """Asks for a run; posts `Start` with the request."""

    DEFAULT_CSS = """
    TrainForm { padding: 1 2; }
    TrainForm .title { text-style: bold; color: $primary; margin-bottom: 1; }
    TrainForm Field { height: 1; }
    TrainForm Field .label { width: 12; color: $secondary; }
    TrainForm Field .hint { width: auto; color: $foreground 60%; margin-left: 2; }
    TrainForm Field Input { width: 1fr; background: $surface; }
    TrainForm Field Input:focus { background: $panel; }
    TrainForm Field .number { width: 12; }
    TrainForm Field Select { width: 1fr; }
    TrainForm #estimate { margin: 1 0 0 12; height: auto; min-height: 4; }
    TrainForm #start { margin: 1 0 0 12; }
    """
    class Start(Message):
        """The form is whole."""

        def __init__(self, request: Request) -> None:
            super().__init__()
            self.request = request

    def __init__(self, id: str | None = None) -> None:
        super().__init__(id=id)
        self._job: Job[Estimate] | None = None
        self._estimated: Request | None = None
        self._asked_at = 0.0

    @property
    def slim_app(self) -> SlimApp:
        """The app, with its type."""
        return cast("SlimApp", self.app)

    def compose(self) -> ComposeResult:
        """One field under the other."""
        suggester = PathSuggester(self.slim_app.folder)
        presets = [(AUTOMATIC, "")] + [
            (f"{name}: {sizes['n_layers']} layers of {sizes['dim']}", name)
            for name, sizes in PRESETS.items()
        ]

        def text_field(name: str, placeholder: str) -> Input:
            return SafeInput(id=name, suggester=suggester, compact=True, placeholder=placeholder)

        def number_field(name: str, value: str) -> Input:
            return SafeInput(value, id=name, compact=True, classes="number")

        yield Static("A new run", classes="title")
        command = Select(COMMANDS, value="pretrain", allow_blank=False, id="command", compact=True)
        preset = Select(presets, value="", allow_blank=False, id="preset", compact=True)
        yield Field("what", command)
        yield Field("text", text_field("data", "a text file, UTF-8, or a folder of them"))
        yield Field("model", text_field("base", "a model file to build on"), id="base-field")
        yield Field("size", preset, id="preset-field")
        minutes = number_field("minutes", DEFAULT_MINUTES)
        yield Field("minutes", minutes, "at most; empty: no limit")
        epochs = number_field("epochs", "")
        yield Field("epochs", epochs, "times through the text; empty: the clock ends it")
        yield Field("save as", text_field("out", "a new file, such as mine.bin"))
        yield Static("", id="estimate")
        yield Button("Start  ctrl+r", id="start", variant="primary", compact=True)

    def on_mount(self) -> None:
        """Estimates come by the tick."""
        self.slim_app.ticked.subscribe(self, lambda _: self._tick(), immediate=True)
        self._show_command()

    # ---- filling in ------------------------------------------------------------------------------------------------

    def fill(self, path: Path) -> None:
        """Begin with a text, with a model to finetune, or (an empty path) with the stories that ship with SLiM."""
        is_model = path != Path() and looks_like_model(path)
        self.query_one("#command", Select).value = "finetune" if is_model else "pretrain"
        data = ""
        if is_model:
            self.field("base").value = str(path)
        elif path != Path():
            data = str(path)
        else:
            try:
                data = str(demo_text(STORIES))
            except SlimError:
                data = ""
        self.field("data").value = data
        stem = path.stem if path != Path() else "stories"
        self.field("out").value = str(_free_name(self.slim_app.folder, safe_line(stem)))
        self._show_command()
        self.field("data" if not data else "minutes").focus()

    def field(self, name: str) -> Input:
        """The text field of that name."""
        return self.query_one(f"#{name}", Input)

    def _show_command(self) -> None:
        finetune = self.query_one("#command", Select).value == "finetune"
        self.query_one("#base-field").display = finetune
        self.query_one("#preset-field").display = not finetune

    def request(self) -> Request:
        """What is filled in. UsageError names the field."""
        command = str(self.query_one("#command", Select).value)
        data, base, out = (self._path(name) for name in ("data", "base", "out"))
        if not data:
            raise UsageError("text: which file shall it learn from?")
        if command == "finetune" and not base:
            raise UsageError("model: which model shall be taught?")
        if not out:
            raise UsageError("save as: a name for the model is missing")
        minutes, epochs = self._number("minutes"), self._number("epochs")
        if minutes is None and epochs is None:
            raise UsageError("minutes or epochs: a run needs an end")
        values: dict[str, object] = {} if minutes is None else {"minutes": minutes}
        preset = self.query_one("#preset", Select).value
        if command != "finetune" and preset:
            values["preset"] = str(preset)
        for path in (Path(out), directory_of(out) / "last"):
            if os.path.lexists(path):  # False, too, for a name that is too long: the run says so
                raise UsageError(f"save as: {path} exists already: choose another name")
        return Request(
            command=command, data=data, epochs=ENDLESS if epochs is None else epochs, out=out,
            base=base if command == "finetune" else None, settings=Settings(values),
        )  # fmt: skip

    def _path(self, name: str) -> str:
        text = self.field(name).value.strip()
        if "\0" in text:
            raise UsageError(f"{name}: is no path")
        return str(self.slim_app.folder / typed_path(text)) if text else ""

    def _number(self, name: str) -> float | None:
        text = self.field(name).value.strip().replace(",", ".")
        if not text:
            return None
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not 0 < value <= MOST:
            raise UsageError(f"{name}: must be a number above 0, at most {MOST:,.0f}, but is {text}")
        return value

    # ---- what it will take -----------------------------------------------------------------------------------------

    def _tick(self) -> None:
        if not self.display or not self.screen.is_current:
            return
        if self._job is not None:
            try:
                for estimate in self._job.poll():
                    self._show_estimate(estimate)
            except (SlimError, OSError) as problem:
                self._job = None
                self._say(str(problem), wrong=True)
            else:
                if self._job.done:
                    self._job = None
                elif time.monotonic() - self._asked_at > SECONDS_OF_PATIENCE:
                    self._say("estimating ...", wrong=False)  # what stands there is of something else
            return
        try:
            request = self.request()
        except SlimError as problem:
            self._estimated = None
            self._say(str(problem), wrong=False)
            return
        if request != self._estimated:
            self._estimated = request
            self._asked_at = time.monotonic()
            self._job = self.slim_app.session.engine.submit(estimating(request))

    def _say(self, words: str, wrong: bool) -> None:
        content = Content.styled(safe_line(words), "$error" if wrong else "$warning")
        place = self.query_one("#estimate", Static)
        if place.content != content:  # each tick says it, and an update lays the screen out anew
            place.update(content)

    def _show_estimate(self, found: Estimate) -> None:
        about = "" if found.measured else "; a guess: no run on this machine is known yet"
        fast, slow = found.fast, found.slow
        seconds = between(duration(fast.seconds), duration(slow.seconds))
        steps = between(about_count(slow.steps), about_count(fast.steps))
        epochs = passes(slow.epochs, fast.epochs)
        compiling = ""
        if found.compile_seconds >= 1.0:
            compiling = f"\nabout {duration(found.compile_seconds)} before it to compile the kernels{FIRST_RUN}"
        room = (
            ""
            if found.available_bytes is None
            else f" of {mega(found.available_bytes)} that are free"
        )
        self.query_one("#estimate", Static).update(
            Content.assemble(
                (f"{found.n_parameters / 1e6:.1f} M", "bold"), f" parameters, a vocabulary of {found.vocab_size:,}\n",
                ("about " + mega(found.memory_bytes), "bold"), f" of memory{room}\n",
                (seconds, "bold"), f" of training: {steps} steps, {epochs} through the text{about}",
                (compiling, "$warning"),
            )
        )  # fmt: skip

    # ---- keys ------------------------------------------------------------------------------------------------------

    def on_select_changed(self) -> None:
        """Another kind of run has other fields."""
        self._show_command()

    def on_input_submitted(self) -> None:
        """Enter leads to the next field."""
        self.screen.focus_next()

    def on_button_pressed(self) -> None:
        """The button starts."""
        self.start()

    def start(self) -> None:
        """Begin, if everything is filled in."""
        try:
            request = self.request()
        except SlimError as problem:
            self._say(str(problem), wrong=True)
            return
        if self._job is not None:
            self._job.cancel(wait=False)
            self._job = None
        self.post_message(self.Start(dataclasses.replace(request)))


def _free_name(folder: Path, stem: str) -> Path:
    """A name for a model that nothing has yet."""
    for number in range(1, 1000):
        path = Path(f"{stem}.bin" if number == 1 else f"{stem}-{number}.bin")
        if not any(os.path.lexists(one) for one in (folder / path, directory_of(folder / path))):
            return path
    return Path(f"{stem}-new.bin")


def between(least: str, most: str) -> str:
    """Two values as one range, where they differ."""
    return least if least == most else f"{least} to {most}"


def about_count(number: int) -> str:
    """A number of which only two digits are known."""
    return f"{round(number, min(2 - len(str(number)), 0)):,}"


def passes(least: float, most: float) -> str:
    """How often, as a range in words."""
    words = between(times(least), times(most))
    return "once" if words == "1" else f"{words} times"


def times(epochs: float) -> str:
    """How often, in two digits, and in whole numbers from 10 on."""
    return f"{epochs:.2g}" if epochs < 9.95 else f"{epochs:,.0f}"
