"""`slim score MODEL FILE`: how expected each word of a text is to a model."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from slim.cli.lines import say, writer_of
from slim.cli.shading_options import add_options
from slim.config import PRECISIONS
from slim.errors import DataError, UsageError

if TYPE_CHECKING:
    from slim.events import Note, Progress, TextScored, TokenGenerated

LONGEST_TEXT = 2**26  # bytes
MOST_ALTERNATIVES = 100


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Describe the command to argparse."""
    parser = subparsers.add_parser(
        "score",
        help="show how expected a text is to a model",
        description="Shade the text in FILE by how expected each word is to MODEL. The text goes to stdout, "
        "what it comes to on the whole to stderr.",
    )
    parser.add_argument("model", metavar="MODEL", help="a model file")
    parser.add_argument("file", metavar="FILE", help="a text, UTF-8; - reads stdin")
    add_options(parser, style=None)
    parser.add_argument(
        "--json", action="store_true", help="one JSON object per token and a last one"
    )
    parser.add_argument(
        "--alternatives",
        type=int,
        metavar="K",
        default=5,
        help="with --json: the K most probable tokens at every place (default 5)",
    )
    parser.add_argument(
        "--precision",
        choices=PRECISIONS,
        default="auto",
        help="of the operands of matrix products (default: auto, bf16 where the CPU is fast at it)",
    )
    parser.add_argument("-q", "--quiet", action="store_true", help="the text only, and errors")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Score and print."""
    if not 0 <= args.alternatives <= MOST_ALTERNATIVES:
        raise UsageError(
            f"--alternatives must be from 0 to {MOST_ALTERNATIVES}, but is {args.alternatives}"
        )
    text = _read(args.file)
    if args.confidence is None:
        args.confidence = "color" if sys.stdout.isatty() else "plain"

    from slim.cli.generate import token_record
    from slim.cli.shading import shading_of
    from slim.cli.stage import show_stages
    from slim.compute import stream
    from slim.events import TextScored, TokenGenerated, as_record
    from slim.safe_text import safe_text

    shading = shading_of(args, os.environ)
    if not args.json and not args.quiet and (words := shading.legend()):
        say(words, marked=True)
    put, flush = writer_of(sys.stdout)
    for event in show_stages(stream(_events(args, text)), args.quiet):
        if args.json:
            assert isinstance(event, (TokenGenerated, TextScored))
            record = (
                {"type": "token", **token_record(event)}
                if isinstance(event, TokenGenerated)
                else {**as_record(event), "type": "finish"}
            )
            record.pop("event", None)
            sys.stdout.write(json.dumps(record, allow_nan=False) + "\n")
        elif isinstance(event, TokenGenerated):
            put(shading.mark(safe_text(event.text), event.p))
        else:
            assert isinstance(event, TextScored)
            put(shading.close())
            flush()
            sys.stdout.write("" if text.endswith(b"\n") else "\n")
            sys.stdout.flush()
            if not args.quiet:
                say(summary(event))
    return 0


def summary(event: TextScored) -> str:
    """What a text comes to, in a line."""
    from slim.wording import counted

    return (
        f"{counted(event.tokens, 'token')}, typical p {event.typical_p:.2g}, perplexity {event.perplexity:.4g}, "
        f"{event.bits_per_byte:.3f} bits/byte"
    )


def _read(path: str) -> bytes:
    """The bytes of the text."""
    if path == "-":
        if sys.stdin is None:
            raise UsageError("the text should come from stdin, but that is closed")
        if sys.stdin.isatty():
            say("slim: type the text; Ctrl-D ends it")
        text = sys.stdin.buffer.read(LONGEST_TEXT + 1)
    else:
        from slim.input_file import HEAD_BYTES, kind_of, open_input

        file, _ = open_input(path, DataError)
        with file:
            text = file.read(LONGEST_TEXT + 1) or b""
        kind = kind_of(text[:HEAD_BYTES])
        if kind is not None:
            raise DataError(f"{path}: is {kind}, but plain UTF-8 text is needed")
    name = "stdin" if path == "-" else path
    if len(text) > LONGEST_TEXT:
        raise DataError(f"{name}: is longer than {LONGEST_TEXT:,} bytes: score a part of it")
    if not text:
        raise DataError(f"{name}: holds no text")
    from slim.corpus import check_text

    check_text(name, text)
    return text


def _events(
    args: argparse.Namespace, text: bytes
) -> Iterator[TokenGenerated | TextScored | Note | Progress]:
    """The work, in the engine thread."""
    from slim.model_file import loading_model
    from slim.score import score

    model, tokenizer, _ = yield from loading_model(args.model, args.precision)
    yield from score(model, tokenizer, text, args.alternatives if args.json else 0)
