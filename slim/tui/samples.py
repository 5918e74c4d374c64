"""What the run writes: the sample that is being written, and an earlier one to compare."""

from __future__ import annotations

from typing import cast

from textual.app import ComposeResult
from textual.containers import Vertical
from textual.content import Content
from textual.widgets import Static

from slim.tui.confidence_text import ConfidenceText
from slim.tui.run_view import RunView, Sample

NOTHING_YET = "Samples appear here as the model writes them."


class SampleText(ConfidenceText):
    """A sample, redrawn only where it grew."""

    def __init__(self, ascii_only: bool, id: str) -> None:
        super().__init__(NOTHING_YET, ascii_only=ascii_only, id=id)
        self._sample: Sample | None = None
        self._tokens = 0
        self._whole = False

    def show(self, sample: Sample | None) -> None:
        """Show a sample, or what has been added to it."""
        same = sample is not None and self._sample is not None and (
            (sample.step, sample.number) == (self._sample.step, self._sample.number)
            and len(sample.tokens) >= self._tokens
            and (bool(sample.tokens) or sample is self._sample)
        )  # fmt: skip
        if not same:
            self.clear()
            self._tokens, self._whole = 0, False
            if sample is not None:
                self.append_text(sample.prompt)
        self._sample = sample
        if sample is not None:
            self.append_tokens(sample.tokens[self._tokens :])
            self._tokens = len(sample.tokens)
            if sample.typical_p is not None and not self._whole:
                self._whole = True
                if sample.rest:
                    self.append_text(sample.rest)
        self.writing = sample is not None and sample.typical_p is None
        if not same and not self.writing:
            self.scroll_home(animate=False)


class Samples(Vertical):
    """Two samples under each other, each with a line that says when it was written."""

    DEFAULT_CSS = """
    Samples .when { height: 1; padding: 0 1; color: $secondary; background: $surface; }
    Samples ConfidenceText { height: 1fr; background: $background; }
    Samples ConfidenceText:focus { background: $surface; }
    """

    def __init__(self, ascii_only: bool, id: str | None = None) -> None:
        super().__init__(id=id)
        self._ascii = ascii_only
        self._drawn: tuple[object, ...] = ()
        self.chosen = 0  # number of the earlier sample that is shown, among those kept
        self.whose = ""  # the name of the run, where several are shown

    def compose(self) -> ComposeResult:
        """Now and then."""
        yield Static("", id="when-now", classes="when")
        yield SampleText(self._ascii, id="now")
        yield Static("", id="when-then", classes="when")
        yield SampleText(self._ascii, id="then")

    def show(self, view: RunView) -> None:
        """Draw what is new."""
        state = (id(view), view.sample_version, self.chosen, view.state.finished is not None)
        if state == self._drawn:
            return
        self._drawn = state
        latest = view.writing or (view.samples[-1] if view.samples else None)
        earlier = self.earlier(view)
        self.chosen = min(max(self.chosen, 0), max(len(earlier) - 1, 0))
        then = earlier[self.chosen] if earlier else None
        cast("SampleText", self.query_one("#now")).show(latest)
        cast("SampleText", self.query_one("#then")).show(then)
        self.query_one("#when-now", Static).update(_when(latest, "now", self.whose), layout=False)
        words = _when(then, "then", self.whose)
        if len(earlier) > 1:
            hint = f"   {self.chosen + 1} of {len(earlier)} [ ]"
            words = Content.assemble(words, (hint, "$secondary 70%"))
        self.query_one("#when-then", Static).update(words, layout=False)

    @staticmethod
    def earlier(view: RunView) -> list[Sample]:
        """The samples to compare the latest one with."""
        return view.samples if view.writing is not None else view.samples[:-1]

    def choose(self, view: RunView, move: int) -> None:
        """Another earlier sample."""
        self.chosen += move
        self.show(view)

    @property
    def texts(self) -> tuple[ConfidenceText, ConfidenceText]:
        return self.query_one("#now", ConfidenceText), self.query_one("#then", ConfidenceText)


def _when(sample: Sample | None, name: str, whose: str) -> Content:
    if sample is None:
        return Content(
            f"{name}: no sample yet"
            if name == "now"
            else "then: the first one, once there is a second"
        )
    words = whose + (f"after step {sample.step:,}" if sample.step else "before the first step")
    if sample.typical_p is None:
        return Content.assemble((words, "bold"), ", writing")
    return Content.assemble(
        (words, "bold"), f", typical p {sample.typical_p:.3f}".replace("0.", ".", 1)
    )
