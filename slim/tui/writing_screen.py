"""What the Generate and the Chat screen share: a text that a model writes, and keys to read it with."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, cast

from rich.text import Text
from textual.binding import Binding, BindingType
from textual.widgets import Input, Static, TextArea

from slim.config import GenerateConfig
from slim.errors import SlimError
from slim.events import GenerateFinished, Note, TextScored, TokenGenerated
from slim.safe_text import safe_line
from slim.tui.confidence_text import READING_KEYS, ConfidenceText
from slim.tui.inspector import Inspector, probability, separator
from slim.tui.prompt_area import PromptArea
from slim.tui.sampler_settings import SamplerSettings
from slim.tui.whole_screen import WholeScreen
from slim.tui.writing import POLL_SECONDS, Writing

if TYPE_CHECKING:
    from slim.tui.app import SlimApp
    from slim.tui.session import OpenModel

SOON_SECONDS = 0.02  # a token takes a few milliseconds
NO_MODEL = "no model is open: o opens one, 1 lists them"


def measures(logprobs: Sequence[float], tokens_per_second: float, few: bool = False) -> list[str]:
    """How much, how fast and how sure, in a few words each; where there is room for `few`, without the perplexity."""
    count = len(logprobs)
    if not count:
        return []
    mean = math.fsum(logprobs) / count
    words = ["1 token" if count == 1 else f"{count:,} tokens"]
    if tokens_per_second:
        words.append(f"{tokens_per_second:,.0f} tokens/s")
    words.append(f"typical p {probability(math.exp(mean))}")
    if not few:
        perplexity = min(math.exp(min(-mean, 700.0)), 1e300)
        words.append(f"perplexity {perplexity:.3g}")
    return words


class WritingScreen(WholeScreen[None]):
    """One text and at most one job that makes it longer; a subclass says what is done with what comes."""

    DEFAULT_CSS = """
    WritingScreen .framed {
        border: round $foreground 25%; background: $background;
        border-title-color: $foreground; border-title-style: none;
        border-subtitle-color: $primary; border-subtitle-style: none;
    }
    WritingScreen .framed:focus, WritingScreen .framed:focus-within { border: round $primary; }
    WritingScreen.-ascii .framed, WritingScreen.-ascii.-wide SamplerSettings {
        border: ascii $foreground 25%;
    }
    WritingScreen.-ascii .framed:focus, WritingScreen.-ascii.-wide SamplerSettings:focus-within {
        border: ascii $primary;
    }
    WritingScreen #body { layout: vertical; height: 1fr; }
    WritingScreen #main { height: 1fr; }
    WritingScreen PromptArea { padding: 0 1; }
    WritingScreen ConfidenceText { height: 1fr; }
    WritingScreen Inspector { height: 9; display: none; }
    WritingScreen #legend { height: 1; padding: 0 1; }
    WritingScreen #side { height: auto; }
    WritingScreen SamplerSettings { padding: 0 1; border-title-color: $foreground; }
    WritingScreen.-inspecting Inspector { display: block; }
    WritingScreen.-low.-inspecting SamplerSettings, WritingScreen.-low.-inspecting PromptArea { display: none; }
    WritingScreen.-wide #body { layout: horizontal; }
    WritingScreen.-wide #main { width: 1fr; height: 1fr; }
    WritingScreen.-wide #side { width: 44; height: 1fr; }
    WritingScreen.-wide Inspector { display: block; height: 1fr; min-height: 14; }
    WritingScreen.-wide SamplerSettings {
        grid-size: 1; height: 10; border: round $foreground 25%; padding: 0 1;
    }
    WritingScreen.-wide SamplerSettings:focus-within { border: round $primary; }
    """
    HORIZONTAL_BREAKPOINTS = [  # noqa: RUF012 (as Textual declares it)
        (0, "-narrow"),
        (100, "-wide"),
    ]
    VERTICAL_BREAKPOINTS = [(0, "-low"), (22, "-usual")]  # noqa: RUF012 (as Textual declares it)
    AUTO_FOCUS = "PromptArea"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "leave", "stop, else leave the field, else back", show=False),
        *READING_KEYS,
    ]

    def __init__(self) -> None:
        super().__init__()
        self.writing: Writing | None = None
        self.model: OpenModel | None = None  # what wrote the text that stands there
        self.logprobs: list[float] = []  # of what the title speaks of
        self.speed = 0.0
        self._received = 0
        self._first_at = 0.0
        self._told: set[str] = set()

    # Not in `on_mount`: Textual would call that of each class.
    def prepare(self) -> None:
        """Once everything is there: titles, the clock, what is known of the model."""
        self.set_class(self.slim.ascii_only, "-ascii")
        settings = self.query_one(SamplerSettings)
        settings.border_title = "sampler"
        self.inspector.border_title = "alternatives"
        for framed in (self.prompt, self.text, self.inspector):
            framed.add_class("framed")
        self._poller = self.set_interval(POLL_SECONDS, self.poll, pause=True)
        self.slim.session_changed.subscribe(self, lambda _: self.show_state())
        self.show_state()
        self._show_legend()

    def on_unmount(self) -> None:
        if self.writing is not None:
            self.writing.close()

    def on_screen_resume(self) -> None:
        if self.is_mounted:
            self.show_state()

    @property
    def slim(self) -> SlimApp:
        """The program."""
        return cast("SlimApp", self.app)

    @property
    def prompt(self) -> PromptArea:
        """Where a person writes."""
        return self.query_one(PromptArea)

    @property
    def text(self) -> ConfidenceText:
        """Where the model writes."""
        return self.query_one(ConfidenceText)

    @property
    def inspector(self) -> Inspector:
        """What else the model could have written."""
        return self.query_one(Inspector)

    def no_model(self) -> str:
        """Why there is nothing to write with, and what helps."""
        return f"{self.slim.doing()}: a moment" if self.slim.opening is not None else NO_MODEL

    # ---- for a subclass ------------------------------------------------------------------------------------------

    def finished(self, event: GenerateFinished | TextScored) -> None:
        """The text is whole."""

    def noted(self, note: Note) -> None:
        """Something a person should know came up: it is told once, and not of a model that is still in training."""
        if note.text not in self._told and (self.model is None or self.model.path is not None):
            self._told.add(note.text)
            self.notify(safe_line(note.text), markup=False, timeout=8)

    def failed(self, problem: str) -> None:
        """The text ended with an error."""
        self.say(problem, wrong=True)

    def show_state(self) -> None:
        """Titles, as they are now."""

    def back(self) -> None:
        """Escape, where nothing is written and no field has the focus."""
        self.slim.action_back()

    # ---- writing -------------------------------------------------------------------------------------------------

    def config(self) -> GenerateConfig | None:
        """The settings, or None after saying what is wrong with them."""
        try:
            return self.query_one(SamplerSettings).config()
        except SlimError as problem:
            self.say(str(problem), wrong=True)
            return None

    def begin(self, make: Callable[[Callable[[], bool]], Iterator[Any]]) -> None:
        """Have a text written by the events of make(should_stop)."""
        session = self.slim.session
        self._received, self._first_at, self.speed = 0, 0.0, 0.0
        self.text.writing = True
        self.writing = Writing(session.engine, session.training_job, make)
        self._poller.resume()
        self.show_state()

    def poll(self) -> None:
        """Show what was written since the last time."""
        writing = self.writing
        if writing is None:
            return
        try:
            found = writing.poll()
        except Exception as problem:  # of any kind: a run that trains here has to go on
            self._end()
            known = isinstance(problem, SlimError)
            self.failed(str(problem) if known else f"{type(problem).__name__}: {problem}")
            return
        self._take([event for event in found if isinstance(event, TokenGenerated)])
        for event in found:
            if isinstance(event, Note):
                self.noted(event)
            elif isinstance(event, GenerateFinished | TextScored):
                self.speed = event.tokens_per_second if isinstance(event, GenerateFinished) else 0.0
                self._end()
                self.finished(event)
        if writing.done and self.writing is writing:
            self._end()

    def _poll_to_the_end(self) -> None:
        """Look often for what a text that was asked to end still brings."""
        self.poll()
        if self.writing is not None and self.writing.stopping:
            self.set_timer(SOON_SECONDS, self._poll_to_the_end)

    def _take(self, tokens: list[TokenGenerated]) -> None:
        if not tokens:
            return
        now = time.monotonic()
        self._first_at = self._first_at or now
        if self._received and now > self._first_at:
            self.speed = self._received / (now - self._first_at)
        self._received += len(tokens)
        self.logprobs += [token.logprob for token in tokens]
        self.text.append_tokens(tokens)
        shown = next((token for token in reversed(tokens) if token.text), None)
        if shown is not None and self.text.cursor is None:
            self.inspect(shown)
        self.show_state()

    def _end(self) -> None:
        self.writing = None
        self._poller.pause()
        self.text.writing = False
        self.show_state()

    def stop_now(self) -> None:
        """Leave the text as it is."""
        self.poll()
        if self.writing is not None:
            self.writing.close()
            self._end()

    # ---- what is shown -------------------------------------------------------------------------------------------

    def say(self, words: str, wrong: bool = False) -> None:
        """One line below the text."""
        line = safe_line(words)
        self.text.border_subtitle = Text(line, style="bold" if wrong else "")
        if wrong:
            self.notify(line, severity="error", markup=False)

    def joined(self, *words: str) -> str:
        """Short facts in a line."""
        return separator(self.slim.ascii_only).join(words)

    def doing(self) -> str:
        """What the model does, in words; nothing while it does nothing."""
        if self.writing is None:
            return ""
        return "stopping" if self.writing.stopping else "writing, Esc stops"

    def inspect(self, token: TokenGenerated | None) -> None:
        """Show what could have stood in a token's place."""
        vocab_size = 0 if self.model is None else self.model.tokenizer.vocab_size
        cursor = self.text.cursor
        by_hand = cursor is not None and self.text.flow.pieces[cursor].chosen
        self.inspector.show(token, vocab_size, by_hand)

    def _show_legend(self) -> None:
        self.query_one("#legend", Static).update(self.text.legend(), layout=False)

    def on_confidence_text_restyled(self) -> None:
        self._show_legend()

    def on_confidence_text_selected(self, event: ConfidenceText.Selected) -> None:
        self.set_class(event.token is not None, "-inspecting")
        if event.token is not None:
            self.inspect(event.token)

    def on_confidence_text_entered(self, event: ConfidenceText.Entered) -> None:
        self.inspector.focus()

    # ---- keys ----------------------------------------------------------------------------------------------------

    def action_leave(self) -> None:
        """Stop writing, else leave the field, else go back."""
        if self.writing is not None:
            self.writing.stop()
            self._poll_to_the_end()
            self.show_state()
        elif isinstance(self.focused, (Input, TextArea, Inspector)):
            self.text.focus()
        else:
            self.back()

    def action_confidence(self) -> None:
        """The next way to show confidence."""
        self.text.action_confidence()

    def action_bins(self) -> None:
        """Absolute or relative bins."""
        self.text.action_bins()

    def action_uncertain(self, step: int) -> None:
        """The next uncertain token, and what could have stood there."""
        self.text.action_uncertain(step)

    def action_copy(self) -> None:
        """The selection or the text to the clipboard."""
        self.text.action_copy()
