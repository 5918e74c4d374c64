"""`slim chat MODEL`: a conversation; replies on stdout, everything else on stderr."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from slim.cli.lines import say
from slim.cli.sampler import DEFAULTS, add_sampler_options, generate_config
from slim.cli.shading_options import add_options
from slim.errors import SlimError, UsageError
from slim.events import GenerateFinished, Note, TokenGenerated
from slim.input_file import typed_path
from slim.wording import counted

if TYPE_CHECKING:
    from slim.chat import Chat, ChatEvent
    from slim.cli.chat_input import MessageReader
    from slim.cli.generate import TextWriter
    from slim.cli.shading import Shading
    from slim.config import GenerateConfig
    from slim.events import Progress

HELP = """\
/retry        another reply to what you said last
/undo         take back what you said last, and the reply
/edit [TEXT]  say TEXT instead of what you said last
/clear        begin anew
/save [FILE]  write the conversation to a file, as plain text
/load FILE    go on with a conversation from a file
/set          all settings; /set NAME VALUE changes one, such as /set temp 0.5
/stats        turns, tokens, speed
/help         this list
/quit         leave; so does Ctrl-D

A line that ends in \\ goes on in the next one; \"\"\" begins and ends a message of
several lines. A message that begins with / is written //. Ctrl-C ends a reply
that is being written.
"""
LEAVES = ("quit", "exit")
DIM, PLAIN = "\x1b[2m", "\x1b[0m"


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Describe the command to argparse."""
    parser = subparsers.add_parser(
        "chat",
        help="talk with a model",
        description="Talk with MODEL. Each line is a message; from a pipe too. A model that was trained on "
        "conversations answers, any other continues the text.",
        epilog=f"in the conversation:\n{HELP}",
    )
    parser.add_argument("model", metavar="MODEL", help="a model file")
    parser.add_argument(
        "--max-tokens",
        type=int,
        metavar="N",
        default=DEFAULTS.max_tokens,
        help=f"tokens of a reply at most (default {DEFAULTS.max_tokens})",
    )
    add_sampler_options(parser)
    output = parser.add_argument_group("output")
    output.add_argument("--json", action="store_true", help="JSON lines: tokens, replies, notes")
    add_options(output, "off")
    output.add_argument("-q", "--quiet", action="store_true", help="replies and errors only")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Talk; the exit code is that of the last message from a pipe that could not be answered."""
    config = generate_config(args, args.max_tokens)

    from slim.cli.chat_input import MessageReader
    from slim.cli.stage import show_stages
    from slim.cli.stopping import StopRequest, leave
    from slim.compute import stream

    with StopRequest(leave):
        (chat,) = show_stages(stream(_load(args, config)), args.quiet)
    from slim.chat import Chat

    assert isinstance(chat, Chat)
    with contextlib.suppress(AttributeError):  # a program may have put something simpler there
        sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]
    return _Talk(args, chat, MessageReader()).run()


def _load(args: argparse.Namespace, config: GenerateConfig) -> Iterator[Progress | Note | Chat]:
    """The work before the first message, in the engine thread; the last that comes is the chat."""
    from slim.chat import Chat
    from slim.conversation import knows_roles
    from slim.model_file import loading_model

    model, tokenizer, metadata = yield from loading_model(args.model, args.weights)
    calibration = metadata.get("calibration")
    known = calibration if isinstance(calibration, dict) else None
    yield Chat(model, tokenizer, config, known, roles=knows_roles(metadata))


class _Talk:
    """The person's side of a chat: messages and commands in, replies out."""

    def __init__(self, args: argparse.Namespace, chat: Chat, reader: MessageReader) -> None:
        from slim.cli.chat_settings import ChatSettings
        from slim.cli.shading import colours_work

        self._args = args
        self._chat = chat
        self._reader = reader
        self._settings = ChatSettings(chat.config, args.confidence)
        self._json = args.json
        self._quiet = args.quiet
        self._dim = sys.stderr.isatty() and colours_work(os.environ)
        self._shown: Shading | None = None
        self._style = ""
        self._file: Path | None = None  # of the conversation, once it was saved or loaded
        self._replies = self._tokens = 0
        self._seconds = 0.0
        self._exit_code = 0
        self._commands: dict[str, Callable[[str], None]] = {
            "help": lambda _: self._say(HELP.rstrip("\n")),
            "set": self._set,
            "clear": self._clear,
            "retry": self._retry,
            "undo": self._undo,
            "edit": self._edit,
            "save": self._save,
            "load": self._load,
            "stats": self._stats,
        }

    def run(self) -> int:
        """Until the input ends, or the person leaves; the exit code."""
        if self._reader.interactive:
            limit = self._chat.context_use.limit
            self._tell(
                f"{Path(self._args.model).name}, {limit:,} tokens of context. /help lists the commands, Ctrl-D leaves."
            )
        while True:
            try:
                text = self._reader.read()
                if text is None or not self._take(text.strip()):
                    return self._exit_code
            except KeyboardInterrupt:
                if not self._reader.interactive:
                    raise
                self._say("\nCtrl-D or /quit leaves")
            except SlimError as error:
                self._refuse(error)

    def _take(self, text: str) -> bool:
        """Act on a line; False to leave."""
        if text.startswith("/") and not text.startswith("//"):
            name, _, rest = text[1:].partition(" ")
            if name in LEAVES:
                return False
            if name not in self._commands:
                from slim.cli import nearest

                hint = nearest(name, [*self._commands, *LEAVES])
                raise UsageError(f"there is no command /{name}{hint}: /help lists them all")
            self._commands[name](rest.strip())
        elif text or (self._reader.interactive and not self._chat.roles):
            message = text.removeprefix("/") if text.startswith("//") else text
            self._answer(lambda stop: self._chat.reply(message, stop))
        return True

    # ---- replies -------------------------------------------------------------------------------------------------

    def _answer(self, reply: Callable[[Callable[[], bool]], Iterator[ChatEvent]]) -> None:
        """Show a reply as it comes; Ctrl-C ends it."""
        from slim.cli.stopping import StopRequest
        from slim.compute import stream

        writer = None if self._json else self._writer()
        later: list[Note] = []
        with StopRequest() as stop:
            for event in stream(reply(stop.requested)):
                if isinstance(event, Note) and writer is not None and writer.begun:
                    later.append(event)  # not into the middle of a line
                elif isinstance(event, Note):
                    self._note(event)
                elif isinstance(event, TokenGenerated):
                    self._token(writer, event)
                else:
                    self._finish(writer, event)
        for note in later:
            self._note(note)
        if stop.signal is not None and not (
            self._reader.interactive and stop.signal == signal.SIGINT
        ):
            sys.stdout.flush()
            raise SystemExit(stop.exit_code)

    def _writer(self) -> TextWriter:
        from slim.cli.generate import TextWriter
        from slim.confidence import WINDOW
        from slim.safe_text import safe_text

        terminal = sys.stdout.isatty()
        stops = self._settings.config.stop_confidence != "off"
        shading = self._shading(stops)
        begun = False

        def clean(text: str) -> str:
            """The blanks before a reply are left out: it has a line of its own."""
            nonlocal begun
            text = text if begun else text.lstrip()
            begun = begun or bool(text)
            return safe_text(text)

        held = WINDOW if stops and not terminal else 0
        return TextWriter("", clean, shading, held, last_line_break=True)

    def _shading(self, stops: bool) -> Shading:
        """Marks for the style that is set; it is explained when it is new."""
        style = self._settings.confidence
        if self._shown is None or style != self._style:
            from slim.cli.shading import shading_of

            wanted = argparse.Namespace(**{**vars(self._args), "confidence": style})
            self._shown, self._style = shading_of(wanted, os.environ), style
            if words := self._shown.legend(stops):
                self._tell(words, safe=True)
        return self._shown

    def _token(self, writer: TextWriter | None, event: TokenGenerated) -> None:
        if writer is not None:
            writer.token(event)
            return
        from slim.cli.generate import JsonWriter

        JsonWriter().token(event)

    def _finish(self, writer: TextWriter | None, event: GenerateFinished) -> None:
        use = self._chat.context_use
        self._replies += 1
        self._tokens += event.tokens
        self._seconds += event.tokens / max(event.tokens_per_second, 1e-9)
        if writer is None:
            from slim.cli.generate import finish_record, write_record

            fields = {**finish_record(event), "text": event.text}
            context = {"context_used": use.used, "context_limit": use.limit}
            write_record({"type": "finish", **fields, **context, "turns_left": self._chat.left})
            return
        from slim.cli.generate import statistics

        writer.finish(event)
        self._tell(f"{statistics(event)}; context {use.used:,} of {use.limit:,}")

    # ---- commands ------------------------------------------------------------------------------------------------

    def _set(self, rest: str) -> None:
        name, _, value = rest.partition(" ")
        if not name:
            self._say("\n".join(self._settings.lines()))
            return
        if not value.strip():
            raise UsageError(f"/set {name} needs a value; /set lists what there is")
        self._settings.set(name, value.strip())
        self._chat.config = self._settings.config
        self._tell(self._settings.line(name))

    def _clear(self, rest: str) -> None:
        self._chat.clear()
        self._file = None
        self._tell("the conversation begins anew")

    def _retry(self, rest: str) -> None:
        self._answer(self._chat.retry)

    def _undo(self, rest: str) -> None:
        taken = self._chat.undo()
        self._tell(f'taken back: "{_in_a_line(taken[0].text)}"')

    def _edit(self, rest: str) -> None:
        if not rest:
            taken = [turn.text for turn in self._chat.turns if turn.role == "user"]
            if not taken or not self._reader.can_prefill(taken[-1]):
                raise UsageError("/edit needs the text to say instead of what you said last")
            rest = (self._reader.read(prefill=taken[-1]) or "").strip()
            if not rest:
                return
        self._answer(lambda stop: self._chat.edit(rest, stop))

    def _save(self, rest: str) -> None:
        path = typed_path(rest) if rest else self._file
        if path is None:
            raise UsageError("/save needs a file to write to")
        if path != self._file and os.path.lexists(path):
            raise UsageError(f"{path}: exists: choose another name")
        self._chat.save(path)
        self._file = path
        self._tell(f"{path} holds the conversation, {_turns(len(self._chat.turns))}")

    def _load(self, rest: str) -> None:
        if not rest:
            raise UsageError("/load needs the file of a conversation")
        from slim.compute import call

        path = typed_path(rest)
        call(lambda: self._chat.load(path))
        self._file = path
        last = self._chat.turns[-1]
        who = "you" if last.role == "user" else "the model"
        self._tell(f'{_turns(len(self._chat.turns))}; {who} said last: "{_in_a_line(last.text)}"')

    def _stats(self, rest: str) -> None:
        use = self._chat.context_use
        turns = self._chat.turns
        speed = f", {self._tokens / self._seconds:,.0f} tokens/s" if self._seconds > 0 else ""
        gone = ""
        if left := self._chat.left:
            gone = f", which the oldest {_turns(left)} {'has' if left == 1 else 'have'} left"
        self._say(
            f"{_turns(len(turns))}, {counted(sum(turn.tokens for turn in turns), 'token')}; "
            f"context {use.used:,} of {use.limit:,} tokens{gone}\n"
            f"{_replies(self._replies)} since the start, {counted(self._tokens, 'token')}{speed}"
        )

    # ---- what is said beside ---------------------------------------------------------------------------------------

    def _note(self, note: Note) -> None:
        if self._json:
            from slim.cli.generate import write_record

            write_record({"type": "note", "level": note.level, "text": note.text})
        elif note.level == "warning":
            self._say(f"warning: {note.text}")
        else:
            self._tell(note.text)

    def _refuse(self, error: SlimError) -> None:
        """Say what was wrong with a line; the conversation goes on."""
        if not self._reader.interactive:
            self._exit_code = error.exit_code
        if self._json:
            from slim.cli.generate import write_record

            write_record({"type": "error", "text": str(error)})
            return
        from slim.cli import complain

        complain(str(error))

    def _tell(self, text: str, safe: bool = False) -> None:
        """A line that is nice to know, on stderr. safe: it holds marks of ours for the terminal."""
        if not self._quiet:
            self._say(text, dim=True, safe=safe)

    def _say(self, text: str, dim: bool = False, safe: bool = False) -> None:
        """A line that was asked for, on stderr."""
        from slim.safe_text import safe_text

        line = text if safe else safe_text(text)
        line = f"{DIM}{line}{PLAIN}" if dim and self._dim and not safe else line
        say(line, marked=True)


def _turns(count: int) -> str:
    return counted(count, "turn")


def _replies(count: int) -> str:
    return counted(count, "reply", "replies")


def _in_a_line(text: str) -> str:
    from slim.wording import one_line

    return one_line(text, limit=60)
