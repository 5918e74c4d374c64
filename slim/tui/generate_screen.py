"""The Generate screen: a prompt, how to draw, and what the model makes of it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from rich.cells import cell_len
from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.widgets import Footer, Input, Static

from slim.config import GenerateConfig
from slim.events import Alternative, GenerateFinished, Note, TextScored, TokenGenerated
from slim.safe_text import safe_line
from slim.shades import LEGEND, STOP_LEGEND
from slim.tui.confidence_text import ConfidenceText
from slim.tui.inspector import SHOWN, Inspector
from slim.tui.prompt_area import PromptArea
from slim.tui.sampler_settings import SamplerSettings
from slim.tui.token_flow import Piece
from slim.tui.top_bar import TopBar
from slim.tui.writing_screen import WritingScreen, measures

if TYPE_CHECKING:
    from slim.tui.session import OpenModel

FRAME = 6  # cells of a title's line that are not the title
WIDE = 140  # cells from which the title has room for all measures
HELP = ("Enter writes on", "ctrl+j new line", "Esc to the text")
WELCOME = f"""Write the beginning of a text above and press Enter: the model goes on from there.

{LEGEND}{STOP_LEGEND}"""


class GenerateScreen(WritingScreen):
    """One text at a time; a branch of it replaces what stood after the branch."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("r,ctrl+r", "again", "again", key_display="^r", tooltip="the prompt once more"),
        Binding("g,ctrl+g", "continue", "go on", key_display="^g", tooltip="go on from the end"),
        Binding("t,ctrl+t", "score", "score", key_display="^t", tooltip="shade the prompt itself"),
    ]

    def __init__(self) -> None:
        super().__init__()
        self._prompt = ""
        self._prompt_ids: np.ndarray | None = None
        self._seed: int | None = None
        self._began = 0  # the first piece of what is being written

    def compose(self) -> ComposeResult:
        yield TopBar("generate")
        plain = self.slim.ascii_only
        with Vertical(id="body"):
            with Vertical(id="main"):
                yield PromptArea(placeholder="the beginning of a text; Enter writes on")
                yield ConfidenceText(WELCOME, ascii_only=plain)
                yield Static(id="legend")
            with Vertical(id="side"):
                yield Inspector(ascii_only=plain)
                yield SamplerSettings()
        yield Footer(show_command_palette=False)

    def on_mount(self) -> None:
        self.prompt.border_title = "prompt"
        self.prompt.border_subtitle = self.joined(*HELP)
        self.inspector.border_subtitle = "Enter: choose one, and go on from it"
        self.prepare()

    # ---- what a person asks for ----------------------------------------------------------------------------------

    def on_prompt_area_submitted(self, event: PromptArea.Submitted) -> None:
        self._write()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        self._write()

    def action_again(self) -> None:
        """The prompt once more."""
        self._write()

    def action_continue(self) -> None:
        """Go on from the end of the text."""
        self.poll()
        ids = self._ids_before(len(self.text.flow.pieces))
        if self.writing is not None:
            self.notify("it is still writing: Esc stops it", timeout=2)
        elif ids is None:
            self._write()
        elif self.model is not None and ids.size and ids[-1] in self.model.tokenizer.end_ids:
            self.say("the text came to its end: nothing follows")
        else:
            self._start(ids)

    def on_inspector_branch(self, event: Inspector.Branch) -> None:
        if self.text.cursor is not None:
            self._branch(self.text.cursor, event.alternative)

    # ---- writing -------------------------------------------------------------------------------------------------

    def _write(self) -> None:
        """A new text."""
        config = self.config()
        if config is not None and self._open():
            self._seed = config.seed
            if self._prompt:
                self.text.append_text(self._prompt)
            self._start(None)

    def action_score(self) -> None:
        """Shade the prompt itself: how expected each of its words was."""
        if not self.prompt.text:
            self.say("there is no prompt to score")
        elif self._open() and (model := self.model) is not None:
            self._seed = None
            self.begin(lambda should_stop: self._score(model, should_stop))

    def _open(self) -> bool:
        """Make way for a new text by the model that is open, if one is."""
        model = self.slim.session.open_model
        if model is None:
            self.say(self.no_model(), wrong=True)
            return False
        self.stop_now()
        self.model = model
        self._prompt, self._prompt_ids = self.prompt.text, None
        self._began, self.logprobs = 0, []
        self.text.clear()
        self.text.know_usual_bins(model.usual_bins)
        return True

    def _branch(self, number: int, alternative: Alternative) -> None:
        """Let an alternative stand in place of a token, and the model go on from there."""
        model, token = self.model, self.text.flow.pieces[number].token
        ids = self._ids_before(number)
        if ids is None or token is None or model is None:
            return
        if alternative.token_id in model.tokenizer.special_tokens.values():
            self.say(f"{alternative.text} ends a text: nothing follows")
            return
        self.stop_now()
        self.text.cut(number)
        decoder = model.tokenizer.stream()
        for token_id in ids.tolist():
            decoder.push(token_id)
        chosen = dataclasses.replace(
            token,
            token_id=alternative.token_id,
            text=decoder.push(alternative.token_id),
            logprob=math.log(max(alternative.p, 1e-30)),
            p=alternative.p,
            rank=token.alternatives.index(alternative),
        )
        self.text.append([Piece(chosen.text, "token", chosen, chosen=True)])
        self.text.focus()
        self._start(np.append(ids, np.int32(alternative.token_id)))

    def _start(self, ids: np.ndarray | None) -> None:
        """Write on from ids, or from the prompt."""
        model, config = self.model, self.config()
        if config is None or model is None:
            return
        config = dataclasses.replace(config, seed=self._seed)
        self._began = len(self.text.flow.pieces)
        self.logprobs = [token.logprob for token in self.text.flow.tokens]
        self.begin(lambda should_stop: self._events(model, ids, config, should_stop))

    def _events(
        self,
        model: OpenModel,
        ids: np.ndarray | None,
        config: GenerateConfig,
        should_stop: Callable[[], bool],
    ) -> Iterator[TokenGenerated | GenerateFinished | Note]:
        """The work, in the engine thread."""
        from slim.generate import generate

        if ids is None:
            ids = self._prompt_ids = model.tokenizer.encode(self._prompt)
        yield from generate(
            model.model, model.tokenizer, ids, config, model.calibration, should_stop, SHOWN
        )

    def _score(
        self, model: OpenModel, should_stop: Callable[[], bool]
    ) -> Iterator[TokenGenerated | TextScored]:
        """The prompt as if the model had written it, in the engine thread."""
        from slim.score import score

        self._prompt_ids = np.empty(0, np.int32)
        text = self._prompt.encode("utf-8", "replace")
        for event in score(model.model, model.tokenizer, text, SHOWN):
            yield event
            if should_stop():
                return

    def _ids_before(self, number: int) -> np.ndarray | None:
        """The ids of the prompt and of the tokens before a piece; None where there is no text."""
        if self._prompt_ids is None:
            return None
        tokens = [
            piece.token for piece in self.text.flow.pieces[:number] if piece.token is not None
        ]
        drawn = np.array([token.token_id for token in tokens], np.int32)
        return np.concatenate((self._prompt_ids, drawn)).astype(np.int32)

    def finished(self, event: GenerateFinished | TextScored) -> None:
        if isinstance(event, TextScored):
            self.show_state()
            self.say(f"the prompt, scored: {event.bits_per_byte:.3f} bits/byte")
            return
        from slim.generate import in_words

        self.text.keep(self._began, event.kept_characters)
        self.logprobs = [token.logprob for token in self.text.flow.tokens]
        self._seed = event.seed
        self.show_state()
        self.say(in_words(event))

    def show_state(self) -> None:
        model = self.model or self.slim.session.open_model
        name = "no model" if model is None else safe_line(model.name)
        words = measures(self.logprobs, self.speed, few=self.size.width < WIDE)
        if self.writing is None and self._seed is not None:
            words.append(f"seed {self._seed}")
            if cell_len(self.joined(name, *words)) > self.text.outer_size.width - FRAME:
                words.pop()
        self.text.border_title = Text(self.joined(name, *words))
        if self.writing is not None:
            held = "; training waits" if self.writing.holds_training else ""
            self.say(self.doing() + held)
        elif model is None:
            self.say(self.no_model())
        elif not self.logprobs:
            self.say("")
