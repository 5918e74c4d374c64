"""The command line: one module per command, each with `add_parser(subparsers)` and `run(args) -> int`.

stdout is data, stderr is narration. What a person can cause is one line and an exit code; a traceback
is a bug of ours. Nothing here loads NumPy, Numba or Rich before a command needs it.
"""

from __future__ import annotations

import argparse
import contextlib
import difflib
import importlib
import keyword
import os
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from slim import __version__
from slim.errors import SlimError, UsageError

GROUPS = {
    "make a model": ("demo", "pretrain", "finetune", "train", "resume"),
    "write and talk with it": ("generate", "chat", "score"),
    "look inside": ("runs", "info", "eval", "calibrate", "tokenize"),
    "take it elsewhere": ("export", "import"),
    "this machine": ("doctor", "bench"),
}
TAKE_TEXT = ("generate", "tokenize")
COMMANDS = tuple(name for names in GROUPS.values() for name in names)
MOST_OPTIONS_IN_USAGE = 6
LONGEST_COMPLAINT = 600  # characters: somebody may have pasted a book as an option
EPILOG = """\
new here?
  slim demo                                  a first model, in four minutes
  slim pretrain corpus.txt 3 base.bin        a model from your own corpus
  slim generate base.bin "Once upon a time"  what it has learned
  slim chat base.bin                         talk with it
  slim-tui                                   all of it on a full screen

slim COMMAND --help tells more about each.
"""


class Help(argparse.HelpFormatter):
    """Help whose texts are wrapped, but for those of several lines, which are laid out already."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return text if "\n" in text else super()._fill_text(text, width, indent)


class Parser(argparse.ArgumentParser):
    """argparse whose complaints are UsageError: one line, with the nearest option."""

    def __init__(self, **options: object) -> None:
        options.setdefault("allow_abbrev", False)
        options.setdefault("formatter_class", Help)
        super().__init__(**options)  # type: ignore[arg-type]

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; see {self.prog} --help")


def build_parser() -> tuple[Parser, dict[str, Parser]]:
    """The parser of `slim`, and those of its commands."""
    parser = Parser(
        prog="slim",
        usage="slim COMMAND ...",
        description="Train and run small language models on an ordinary CPU, offline.",
    )
    parser.add_argument("--version", action="version", version=f"slim {__version__}")
    subparsers = parser.add_subparsers(
        dest="command", metavar="COMMAND", prog="slim", help=argparse.SUPPRESS
    )
    for name in COMMANDS:
        module = f"slim.cli.{name}_" if keyword.iskeyword(name) else f"slim.cli.{name}"
        importlib.import_module(module).add_parser(subparsers)
    said = {action.dest: action.help for action in subparsers._get_subactions()}
    lists = [
        f"{title}:\n" + "\n".join(f"  {name:<10} {said[name]}" for name in names)
        for title, names in GROUPS.items()
    ]
    parser.epilog = "\n\n".join([*lists, EPILOG])
    for command in subparsers.choices.values():
        _shorten_usage(command)
    return parser, subparsers.choices


def _shorten_usage(parser: argparse.ArgumentParser) -> None:
    """Of a command with many options: they are listed below the usage, not in it."""
    options = [action for action in parser._actions if action.option_strings]
    if len(options) > MOST_OPTIONS_IN_USAGE:
        places = [
            f"[{action.metavar}]" if action.nargs == "?" else str(action.metavar)
            for action in parser._actions
            if not action.option_strings
        ]
        parser.usage = " ".join([parser.prog, "[OPTIONS]", *places])


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit code of the process."""
    return guarded(lambda: _dispatch(list(sys.argv[1:] if argv is None else argv)))


def guarded(program: Callable[[], int]) -> int:
    """The exit code of a program; what a person can cause becomes one line."""
    try:
        return program()
    except SlimError as error:
        complain(str(error))
        return error.exit_code
    except KeyboardInterrupt:
        complain("interrupted")
        return 130
    except BrokenPipeError:
        # The reader has had enough. Python would complain again when it closes stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except MemoryError:
        complain("not enough memory: try a smaller --preset, --batch-tokens or --seq-len")
        return 1
    except OSError as error:
        name = f"{error.filename}: " if error.filename is not None else ""
        complain(f"{name}{error.strerror or error}")
        return 1


def complain(message: str) -> None:
    """One line on stderr, safe for a terminal whatever is in it."""
    from slim.cli.lines import say
    from slim.safe_text import safe_text

    line = safe_text(" ".join(message.split()))
    if len(line) > LONGEST_COMPLAINT:
        line = line[:LONGEST_COMPLAINT] + "…"
    with contextlib.suppress(OSError):  # a log on a full disk: the exit code still tells
        say(f"slim: error: {line}")


def _dispatch(arguments: list[str]) -> int:
    parser, commands = build_parser()
    if not arguments:
        parser.print_help()
        return 0
    if not arguments[0].startswith("-") and arguments[0] not in commands:
        hint = nearest(arguments[0], commands)
        raise UsageError(f"there is no command {arguments[0]!r}{hint}; see slim --help")
    try:
        args, unknown = parser.parse_known_args(arguments)
    except SystemExit as stop:  # --help and --version
        return int(stop.code or 0)
    if unknown:
        command = parser if args.command is None else commands[args.command]
        options = [option for option in command._option_string_actions if option.startswith("--")]
        hint = nearest(unknown[0].partition("=")[0], options)
        if not unknown[0].startswith("-") and args.command in TAKE_TEXT:
            hint = " (a text of several words is put in quotes)"
        raise UsageError(f"did not expect {unknown[0]!r}{hint}; see {command.prog} --help")
    if args.command is None:
        raise UsageError("a command is needed; see slim --help")
    return args.run(args)


def nearest(word: str, known: Sequence[str] | dict[str, Parser]) -> str:
    """` (did you mean ...?)`, or nothing where no word is near."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f" (did you mean {close[0]}?)" if close else ""
