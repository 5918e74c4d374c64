"""The Chat screen: a conversation whose every word shows how expected it was to the model."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from rich.style import Style
from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.widgets import Footer, Input, Static

from slim.conversation import USER, knows_roles
from slim.errors import SlimError
from slim.events import GenerateFinished, Note, TextScored
from slim.safe_text import safe_line
from slim.shades import LEGEND, STOP_LEGEND
from slim.tui.confidence_text import ConfidenceText
from slim.tui.inspector import SHOWN, Inspector, bar
from slim.tui.prompt_area import PromptArea
from slim.tui.sampler_settings import SamplerSettings
from slim.tui.token_flow import Piece
from slim.tui.top_bar import TopBar
from slim.tui.writing_screen import WritingScreen, measures

if TYPE_CHECKING:
    from slim.chat import Chat

ANSWERS = f"Write a message below and press Enter.\n\n{LEGEND}{STOP_LEGEND}"
CONTINUES = f"""This is a base model: it continues your text rather than answers it. Begin a story below and press Enter, \
then go on writing it in turns.

{LEGEND}{STOP_LEGEND}"""
BAR_CELLS = 16
MOST_PIECES = (
    20_000  # of the transcript, tokens for the most part: a third of the oldest goes beyond that
)
SHORTENED = "What was said before is not shown any more; ctrl+s saves all of it.\n\n"
EDITING = "your last message, to be changed; Esc leaves it as it was"
HELP = ("Enter sends", "ctrl+j new line", "up edits the last", "Esc to the text")


class ChatScreen(WritingScreen):
    """What both sides said, and a field for what comes next."""

    DEFAULT_CSS = """
    ChatScreen #status { height: 1; padding: 0 1; }
    ChatScreen ToastRack { margin-bottom: 5; } /* above the prompt */
    ChatScreen SamplerSettings { display: none; }
    ChatScreen.-settings SamplerSettings, ChatScreen.-wide SamplerSettings { display: block; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("r,ctrl+r", "retry", "retry", key_display="^r", tooltip="another answer to the last message"),
        Binding("e,ctrl+up,alt+up", "edit", "edit", show=False, tooltip="change the last message"),
        Binding("s,ctrl+s", "save", "save", key_display="^s", tooltip="save the conversation as a text file"),
        Binding("t,ctrl+t", "settings", "sampler", key_display="^t", tooltip="show or hide the sampler"),
        Binding("ctrl+l", "clear", "begin anew", show=False),
    ]  # fmt: skip

    def __init__(self) -> None:
        super().__init__()
        self.chat: Chat | None = None
        self.editing = False
        self._marks: list[int] = []  # the piece that each turn begins with
        self._gone = 0  # turns that are not shown any more, and have no mark
        self._began = 0  # the first piece of the reply
        self._sent = ""
        self._removed: list[
            Piece
        ] = []  # what a retry or an edit took away, until an answer came of it
        self._held_step = 0
        self._ended = False  # whether the reply before ended its text

    def compose(self) -> ComposeResult:
        yield TopBar("chat")
        plain = self.slim.ascii_only
        with Vertical(id="body"):
            with Vertical(id="main"):
                yield ConfidenceText(ANSWERS, ascii_only=plain)
                yield Static(id="legend")
                yield Static(id="status")
                yield PromptArea(placeholder="a message")
            with Vertical(id="side"):
                yield Inspector(ascii_only=plain, branches=False)
                yield SamplerSettings()
        yield Footer(show_command_palette=False)

    def on_mount(self) -> None:
        self.prompt.border_subtitle = self.joined(*HELP)
        self.prepare()

    # ---- what a person asks for ----------------------------------------------------------------------------------

    def on_prompt_area_submitted(self, event: PromptArea.Submitted) -> None:
        self._send(event.text)

    def on_input_submitted(self, event: Input.Submitted) -> None:
        self.prompt.focus()

    def on_prompt_area_recalled(self) -> None:
        self.action_edit()

    def action_retry(self) -> None:
        """Another answer to the last message."""
        chat = self._ready()
        said = self._last_said()
        if chat is None or said is None:
            self.say("there is nothing to answer again yet")
            return
        self._take_back()
        self._ask(chat, said, chat.retry)

    def action_edit(self) -> None:
        """Put the last message back into the field."""
        said = self._last_said()
        if self.writing is not None or said is None:
            return
        self._edit(True)
        self.prompt.text = said
        self.prompt.move_cursor(self.prompt.document.end)
        self.prompt.focus()

    def action_save(self) -> None:
        """Write the conversation to a new text file."""
        if self.chat is None or self.writing is not None or self.model is None:
            self.say(
                "there is nothing to save yet" if self.writing is None else "it is still writing"
            )
            return
        path = _unused(self.slim.folder / f"{Path(self.model.name).stem}-chat.txt")
        try:
            size = self.chat.save(path)
        except (SlimError, OSError) as problem:
            self.say(str(problem), wrong=True)
        else:
            self.notify(f"saved {size:,} bytes as {safe_line(path.name)}", markup=False)

    def action_settings(self) -> None:
        """Show or hide the sampler where there is no room for it."""
        self.toggle_class("-settings")

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Where there is room the sampler is always shown."""
        return action != "settings" or not self.has_class("-wide")

    def action_clear(self) -> None:
        """An empty conversation."""
        self.stop_now()
        if self.chat is not None:
            self.chat.clear()
        self._forget_transcript()
        self.show_state()

    def back(self) -> None:
        if self.editing:
            self._edit(False)
            self.prompt.text = ""
        else:
            super().back()

    # ---- a reply -------------------------------------------------------------------------------------------------

    def _send(self, text: str) -> None:
        """Say something, or something else than before."""
        chat = self._ready()
        if chat is None:
            return
        if self.editing:
            self._take_back()
            self._ask(chat, text, lambda should_stop: chat.edit(text, should_stop))
        else:
            self._removed = []
            self._ask(chat, text, lambda should_stop: chat.reply(text, should_stop))
        self._edit(False)
        self.prompt.text = ""

    def _ready(self) -> Chat | None:
        """The conversation, with the model and the settings of now; None after saying what is missing."""
        if self.writing is not None:
            self.notify("it is still writing: Esc stops it", timeout=2)
            return None
        model = self.slim.session.open_model
        if model is None:
            self.say(self.no_model(), wrong=True)
            return None
        config = self.config()
        if config is None:
            return None
        if self.chat is None or self.model is None or self.model.model is not model.model:
            from slim.chat import Chat

            roles = knows_roles(model.metadata)
            self.chat = Chat(
                model.model, model.tokenizer, config, model.calibration, roles, n_alternatives=SHOWN
            )
            self._forget_transcript()
            self.text.know_usual_bins(model.usual_bins)
        elif model.path is None:
            self.chat.weights_changed()
        self.model = model
        self.chat.config = config
        return self.chat

    def _ask(
        self, chat: Chat, text: str, answer: Callable[[Callable[[], bool]], Iterator[object]]
    ) -> None:
        """Show what was said, and let the model answer."""
        self._sent = text
        pieces = self.text.flow.pieces
        self._marks.append(len(pieces))
        gap = "\n" if pieces else ""
        if chat.roles:
            said = [Piece(f"{gap}you\n", "heading"), Piece(f"{text}\n\n")]
            said.append(Piece(f"{safe_line(self._speaker())}\n", "heading"))
            self.text.append(said)
            self._marks.append(len(pieces) - 1)
        else:
            # After its end a text is followed by another one.
            self.text.append([Piece(("\n" if self._ended else chat.glue(text)) + text)])
            self._marks.append(len(pieces))
        self._began = len(pieces)
        self.logprobs = []
        run = self.slim.session.run
        self._held_step = 0 if run is None else run.view.state.step
        self.text.scroll_end(animate=False)
        self.begin(answer)

    def _take_back(self) -> None:
        """Remove the last message and its answer from the screen."""
        mark = self._marks[-2]
        self._removed = self.text.flow.pieces[mark:]
        del self._marks[-2:]
        self.text.cut(mark)

    def finished(self, event: GenerateFinished | TextScored) -> None:
        from slim.generate import in_words

        assert isinstance(event, GenerateFinished)  # nothing is scored here
        self.text.keep(self._began, event.kept_characters)
        self.logprobs = [
            piece.token.logprob for piece in self.text.flow.pieces[self._began :] if piece.token
        ]
        words = self.joined(*measures(self.logprobs, self.speed), in_words(event))
        self.text.append([Piece(f"\n{words}\n", "note")])
        self._removed = []
        self._ended = event.finish_reason == "eos"
        self._shorten()
        self.say("")
        self.show_state()

    def _shorten(self) -> None:
        """After hours: the oldest turns leave the screen, of those that the model no longer sees."""
        shown, left = len(self.text.flow.pieces), 0 if self.chat is None else self.chat.left
        if shown <= MOST_PIECES:
            return
        turns = sum(mark <= shown // 3 for mark in self._marks[: left - self._gone]) // 2 * 2
        if not 0 < turns < len(self._marks):
            return
        first = self._marks[turns]
        self.text.shorten(first, SHORTENED)
        self._gone += turns
        self._marks = [mark - first + 1 for mark in self._marks[turns:]]

    def noted(self, note: Note) -> None:
        from slim import chat

        if note.text != chat.CONTINUES:  # said by the empty screen already
            super().noted(note)

    def failed(self, problem: str) -> None:
        """Nothing was said: what was typed goes back into the field, and what was removed onto the screen."""
        super().failed(problem)
        mark = self._marks[-2]
        del self._marks[-2:]
        self.text.cut(mark)
        if self._removed:
            # The heading of the answer is the second mark of a turn.
            self._marks += [mark, mark + (2 if self.chat is not None and self.chat.roles else 1)]
            self.text.append(self._removed)
            self._removed = []
        self.prompt.text = self._sent
        self.show_state()

    def _last_said(self) -> str | None:
        """The last message of the person."""
        turns = () if self.chat is None else self.chat.turns
        return next((turn.text for turn in reversed(turns) if turn.role == USER), None)

    # ---- what is shown -------------------------------------------------------------------------------------------

    def show_state(self) -> None:
        opened = self.slim.session.open_model
        model = self.model or opened
        if not self._marks:
            self.text.placeholder = (
                self.no_model()
                if opened is None
                else ANSWERS
                if knows_roles(opened.metadata)
                else CONTINUES
            )
            model = opened
        words = ["no model" if model is None else safe_line(model.name)]
        if model is not None and not knows_roles(model.metadata):
            words.append("a base model: it continues text")
        self.text.border_title = Text(self.joined(*words))
        if self.writing is not None:
            self.say(self.joined(self.doing(), *measures(self.logprobs, self.speed)))
        self._show_status()

    def _show_status(self) -> None:
        """The context, what left it, and whether training waits: in fewer words where there is less room."""
        status = self.query_one("#status", Static)
        width = status.content_size.width or self.size.width
        use, badges = self._context_use(), self._badges()
        line = next(
            (one for badge in badges if (one := use + badge).cell_len <= width), use + badges[-1]
        )
        if line.cell_len > width:  # what happens now before a picture of what was
            line = self._context_use(with_bar=False) + badges[-1]
        status.update(line, layout=False)
        left = self.chat.left - self._gone if self.chat is not None else -1
        if 0 <= left < len(self._marks):
            self.text.forget(self._marks[left])

    def _context_use(self, with_bar: bool = True) -> Text:
        """How much of the context the conversation takes, and what left it."""
        line = Text(no_wrap=True, overflow="ellipsis")
        chat = self.chat
        if chat is None:
            return line
        use = chat.context_use
        # A reply is a turn once it is whole.
        used = min(use.used + (len(self.logprobs) if self.writing is not None else 0), use.limit)
        line.append("context ")
        if with_bar:
            plain = self.slim.ascii_only
            line.append(bar(used / use.limit, BAR_CELLS, plain).replace(" ", "." if plain else "░"))
            line.append(" ")
        line.append(f"{used:,} of {use.limit:,} tokens")
        if chat.left:
            turns = "turn has" if chat.left == 1 else "turns have"
            line.append(f", {chat.left} {turns} left it", Style(italic=True))
        return line

    def _badges(self) -> list[Text]:
        """That training waits for this reply, the shortest words last; one without any where it does not."""
        if self.writing is None or not self.writing.holds_training:
            return [Text()]
        waits = "training waits"
        at = f"{waits} at step {self._held_step:,}"
        style = Style(reverse=True, bold=True)
        return [Text.assemble("  ", (f" {words} ", style)) for words in (f"{at} for this reply", at, waits)]

    def _speaker(self) -> str:
        return "model" if self.model is None else Path(self.model.name).stem

    def _edit(self, on: bool) -> None:
        self.editing = on
        self.prompt.border_title = "edit" if on else ""
        self.prompt.border_subtitle = EDITING if on else self.joined(*HELP)

    def _forget_transcript(self) -> None:
        self._marks, self._removed, self._gone = [], [], 0
        self.logprobs, self._ended = [], False
        self.text.clear()
        self.text.forget(0)
        self.inspector.show(None)


def _unused(path: Path) -> Path:
    """The path, or one with a number that is not there yet."""
    number, found = 2, path
    while os.path.lexists(found):
        found = path.with_stem(f"{path.stem}-{number}")
        number += 1
    return found
