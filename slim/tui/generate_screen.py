"""The Generate screen: a prompt, how to draw, and what the model makes of it."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import numpy as np
from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import Screen
from textual.widgets import Footer, Input, Static, TextArea

from slim.config import GenerateConfig
from slim.errors import SlimError
from slim.events import Alternative, GenerateFinished, Note, TokenGenerated
from slim.generate import generate, in_words, token_text
from slim.safe_text import safe_line
from slim.shades import LEGEND
from slim.tui.confidence_text import ConfidenceText
from slim.tui.inspector import SHOWN, Inspector, probability
from slim.tui.prompt_area import PromptArea
from slim.tui.sampler_settings import SamplerSettings
from slim.tui.token_flow import Piece
from slim.tui.writing import POLL_SECONDS, Writing

WELCOME = f"""Write the beginning of a text above and press Enter: the model goes on from there.

{LEGEND}"""
NO_MODEL = "Open a model: o"


class GenerateScreen(Screen[None]):
    """One text at a time; branches of it replace what stood after the branch."""

    DEFAULT_CSS = """
    GenerateScreen #body { layout: vertical; height: 1fr; }
    GenerateScreen #main { height: 1fr; }
    GenerateScreen .framed {
        border: round $foreground 25%; background: $background;
        border-title-color: $foreground; border-title-style: bold;
        border-subtitle-color: $primary; border-subtitle-style: none;
    }
    GenerateScreen .framed:focus, GenerateScreen .framed:focus-within { border: round $primary; }
    GenerateScreen PromptArea { padding: 0 1; }
    GenerateScreen ConfidenceText { height: 1fr; }
    GenerateScreen Inspector { height: 9; display: none; }
    GenerateScreen #legend { height: 1; padding: 0 1; }
    GenerateScreen #side { height: auto; }
    GenerateScreen SamplerSettings { padding: 0 1; border: none; }
    GenerateScreen.-inspecting Inspector { display: block; }
    GenerateScreen.-wide #body { layout: horizontal; }
    GenerateScreen.-wide #main { width: 1fr; height: 1fr; }
    GenerateScreen.-wide #side { width: 44; height: 1fr; }
    GenerateScreen.-wide Inspector { display: block; height: 1fr; }
    GenerateScreen.-wide SamplerSettings {
        grid-size: 1; height: 10; border: round $foreground 25%; padding: 0 1;
    }
    GenerateScreen.-wide SamplerSettings:focus-within { border: round $primary; }
    """
    HORIZONTAL_BREAKPOINTS: ClassVar[list[tuple[int, str]] | None] = [
        (0, "-narrow"),
        (100, "-wide"),
    ]
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "leave", "stop, back", show=False),
        Binding("ctrl+r", "again", "again"),
        Binding("ctrl+g", "continue", "go on"),
        Binding("c", "confidence", "confidence"),
        Binding("n", "uncertain(1)", "next unsure"),
        Binding("N", "uncertain(-1)", "unsure before", show=False),
        Binding("b", "bins", "absolute, relative bins", show=False),
        Binding("y", "copy", "copy"),
        Binding("r", "again", "write again", show=False),
        Binding("g", "continue", "go on from the end", show=False),
    ]

    def __init__(self) -> None:
        super().__init__()
        self._writing: Writing | None = None
        self._model: Any = None  # what wrote the text: session.open_model at that time
        self._prompt = ""
        self._prompt_ids: np.ndarray | None = None
        self._seed: int | None = None
        self._began = 0  # the first piece of what is being written
        self._first_at = 0.0
        self._speed = 0.0
        self._logprobs: list[float] = []

    def compose(self) -> ComposeResult:
        with Vertical(id="body"):
            with Vertical(id="main"):
                yield PromptArea(placeholder="the beginning of a text; Enter writes on")
                yield ConfidenceText(WELCOME, ascii_only=self.app.ascii_only)  # type: ignore[attr-defined]
                yield Static(id="legend")
            with Vertical(id="side"):
                yield Inspector(ascii_only=self.app.ascii_only)  # type: ignore[attr-defined]
                yield SamplerSettings()
        yield Footer()

    def on_mount(self) -> None:
        self.prompt.border_title = "prompt"
        self.inspector.border_title = "alternatives"
        self.query_one(SamplerSettings).border_title = "sampler"
        for framed in (self.prompt, self.text, self.inspector, self.query_one(SamplerSettings)):
            framed.add_class("framed")
        self.set_interval(POLL_SECONDS, self._poll)
        self._show_state()
        self._show_legend()
        self.prompt.focus()

    def on_unmount(self) -> None:
        if self._writing is not None:
            self._writing.close()

    def on_screen_resume(self) -> None:
        self._show_state()

    @property
    def prompt(self) -> PromptArea:
        return self.query_one(PromptArea)

    @property
    def text(self) -> ConfidenceText:
        return self.query_one(ConfidenceText)

    @property
    def inspector(self) -> Inspector:
        return self.query_one(Inspector)

    # ---- writing -------------------------------------------------------------------------------------------------

    def on_prompt_area_submitted(self, event: PromptArea.Submitted) -> None:
        self._write(event.text)

    def on_input_submitted(self, event: Input.Submitted) -> None:
        self._write(self.prompt.text)

    def action_again(self) -> None:
        """The same prompt once more."""
        self._write(self.prompt.text)

    def action_continue(self) -> None:
        """Go on from the end of the text."""
        ids = self._ids_before(len(self.text.flow.pieces))
        if self._prompt_ids is None or ids is None:
            self._write(self.prompt.text)
        elif ids.size and ids[-1] == self._model.tokenizer.eos_id:
            self._say("the text came to its end: there is nothing to go on with")
        else:
            self._start(ids)

    def on_inspector_branch(self, event: Inspector.Branch) -> None:
        cursor = self.text.cursor
        if cursor is not None:
            self._branch(cursor, event.alternative)

    def _write(self, prompt: str) -> None:
        """A new text."""
        if self.app.session.open_model is None:  # type: ignore[attr-defined]
            self._say(NO_MODEL, wrong=True)
            return
        config = self._config()
        if config is None:
            return
        self._stop_now()
        self._model = self.app.session.open_model  # type: ignore[attr-defined]
        self._prompt, self._prompt_ids, self._seed = prompt, None, config.seed
        self.text.clear()
        self.text.usual_bins = self._model.usual_bins
        if prompt:
            self.text.append_text(prompt)
        self._start(None)

    def _branch(self, number: int, alternative: Alternative) -> None:
        """Let an alternative stand in place of a token, and the model go on from there."""
        ids = self._ids_before(number)
        token = self.text.flow.pieces[number].token
        if ids is None or token is None or self._model is None:
            return
        tokenizer = self._model.tokenizer
        if alternative.token_id in tokenizer.special_tokens.values():
            self._say(
                f"{token_text(tokenizer, alternative.token_id)} ends a text: nothing would follow"
            )
            return
        self._stop_now()
        self.text.cut(number)
        decoder = tokenizer.stream()
        for token_id in ids.tolist():
            decoder.push(token_id)
        chosen = dataclasses.replace(
            token,
            token_id=alternative.token_id,
            text=decoder.push(alternative.token_id),
            logprob=math.log(max(alternative.p, 1e-30)),
            p=alternative.p,
            rank=[one.token_id for one in token.alternatives].index(alternative.token_id),
        )
        self.text.append([Piece(chosen.text, "token", chosen, chosen=True)])
        self.text.focus()
        self._start(np.append(ids, np.int32(alternative.token_id)))

    def _start(self, ids: np.ndarray | None) -> None:
        """Write on from ids, or from the prompt."""
        config = self._config()
        if config is None:
            return
        if self._seed is not None:
            config = dataclasses.replace(config, seed=self._seed)
        session = self.app.session  # type: ignore[attr-defined]
        self._began, self._first_at, self._speed = len(self.text.flow.pieces), 0.0, 0.0
        self._logprobs = [token.logprob for token in self.text.flow.tokens]
        self.text.writing = True
        self._writing = Writing(
            session.engine,
            session.training_job,
            lambda should_stop: self._events(ids, config, should_stop),
        )
        self._show_state()

    def _events(
        self, ids: np.ndarray | None, config: GenerateConfig, should_stop: Callable[[], bool]
    ) -> Iterator[TokenGenerated | GenerateFinished | Note]:
        """The work, in the engine thread."""
        model = self._model
        if ids is None:
            ids = self._prompt_ids = model.tokenizer.encode(self._prompt)
        yield from generate(
            model.model, model.tokenizer, ids, config, model.calibration, should_stop, SHOWN
        )

    def _ids_before(self, number: int) -> np.ndarray | None:
        """The ids of the prompt and of the tokens before a piece."""
        if self._prompt_ids is None:
            return None
        tokens = [
            piece.token for piece in self.text.flow.pieces[:number] if piece.token is not None
        ]
        drawn = np.array([token.token_id for token in tokens], np.int32)
        return np.concatenate((self._prompt_ids, drawn)).astype(np.int32)

    def _config(self) -> GenerateConfig | None:
        """The settings, or None after saying what is wrong with them."""
        try:
            return self.query_one(SamplerSettings).config()
        except SlimError as problem:
            self._say(str(problem), wrong=True)
            return None

    def _poll(self) -> None:
        """Show what was written since the last time."""
        writing = self._writing
        if writing is None:
            return
        try:
            found = writing.poll()
        except SlimError as problem:
            self._end()
            self._say(str(problem), wrong=True)
            return
        tokens = [event for event in found if isinstance(event, TokenGenerated)]
        if tokens:
            now = time.monotonic()
            self._first_at = self._first_at or now
            self._logprobs += [token.logprob for token in tokens]
            count = len(self.text.flow.pieces) - self._began
            if count and now > self._first_at:
                self._speed = count / (now - self._first_at)
            self.text.append_tokens(tokens)
            if self.text.cursor is None:
                self._inspect(tokens[-1])
            self._show_state()
        for event in found:
            if isinstance(event, Note):
                self.notify(safe_line(event.text), markup=False)
            elif isinstance(event, GenerateFinished):
                self._finish(event)
        if writing.done and self._writing is writing:
            self._end()

    def _finish(self, event: GenerateFinished) -> None:
        """The text is whole."""
        self.text.keep(self._began, event.kept_characters)
        self._logprobs = [token.logprob for token in self.text.flow.tokens]
        self._seed = event.seed
        self._speed = event.tokens_per_second
        self._end()
        self._say(in_words(event))

    def _end(self) -> None:
        self._writing = None
        self.text.writing = False
        self._show_state()

    def _stop_now(self) -> None:
        """Leave the text as it is."""
        if self._writing is not None:
            self._poll()
        if self._writing is not None:
            self._writing.close()
            self._end()

    # ---- what is shown -------------------------------------------------------------------------------------------

    def _show_state(self) -> None:
        """The title: whose text, how fast, how sure."""
        model = self._model or self.app.session.open_model  # type: ignore[attr-defined]
        parts = [safe_line(model.name) if model is not None else "no model"]
        count = len(self._logprobs)
        if count:
            mean = math.fsum(self._logprobs) / count
            parts.append("1 token" if count == 1 else f"{count:,} tokens")
            if self._speed:
                parts.append(f"{self._speed:,.0f} tokens/s")
            parts += [
                f"typical p {probability(math.exp(mean))}",
                f"perplexity {math.exp(-mean):.4g}",
            ]
        self.text.border_title = Text(" · ".join(parts))  # type: ignore[assignment]
        if self._writing is not None:
            held = "; training waits" if self._writing.holds_training else ""
            self._say(("stopping" if self._writing.stopping else "writing, Esc stops") + held)
        elif model is None:
            self._say(NO_MODEL)

    def _say(self, words: str, wrong: bool = False) -> None:
        """One line below the text."""
        self.text.border_subtitle = Text(safe_line(words), style="bold" if wrong else "")  # type: ignore[assignment]
        if wrong:
            self.notify(safe_line(words), severity="error", markup=False)

    def _show_legend(self) -> None:
        self.query_one("#legend", Static).update(self.text.legend())

    def _inspect(self, token: TokenGenerated | None) -> None:
        vocab_size = 0 if self._model is None else self._model.tokenizer.vocab_size
        cursor = self.text.cursor
        by_hand = cursor is not None and self.text.flow.pieces[cursor].chosen
        self.inspector.show(token, vocab_size, by_hand)

    def on_confidence_text_restyled(self) -> None:
        self._show_legend()

    def on_confidence_text_selected(self, event: ConfidenceText.Selected) -> None:
        self.set_class(event.token is not None, "-inspecting")
        if event.token is not None:
            self._inspect(event.token)

    def on_confidence_text_entered(self, event: ConfidenceText.Entered) -> None:
        self.inspector.focus()

    # ---- keys ----------------------------------------------------------------------------------------------------

    def action_leave(self) -> None:
        """Stop writing, else leave the field, else go back."""
        if self._writing is not None:
            self._writing.stop()
            self._poll()
            self._show_state()
        elif isinstance(self.focused, (Input, TextArea, Inspector)):
            self.text.focus()
        else:
            self.app.action_back()  # type: ignore[attr-defined]

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
