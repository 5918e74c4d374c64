"""`slim tokenize MODEL TEXT|-`: what a text looks like to a model."""

from __future__ import annotations

import argparse
import json
import os
import sys

from slim.cli.lines import say
from slim.wording import counted

WIDTH = 78


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Describe the command to argparse."""
    parser = subparsers.add_parser(
        "tokenize",
        help="what a text looks like to a model",
        description="The tokens that TEXT becomes, between bars, with their number and how many bytes each "
        "has on average. A blank is shown as ␣, a line break as ↵, a byte that is no character as <E2>.",
    )
    parser.add_argument("model", metavar="MODEL", help="a model file")
    parser.add_argument("text", metavar="TEXT", help="a text; - reads stdin")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--ids", action="store_true", help="only the ids, on one line")
    form.add_argument("--json", action="store_true", help="one JSON object")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the tokens."""
    from slim.compute import call
    from slim.model_file import open_source

    with open_source(args.model) as source:
        tokenizer = source.tokenizer
    data = sys.stdin.buffer.read() if args.text == "-" else os.fsencode(args.text)
    ids = call(lambda: tokenizer.encode(data))
    pieces = [visible(tokenizer.token_bytes(token_id)) for token_id in ids.tolist()]
    if args.ids:
        sys.stdout.write(" ".join(map(str, ids.tolist())) + "\n")
    elif args.json:
        record = {"ids": ids.tolist(), "pieces": pieces, "tokens": len(pieces), "bytes": len(data)}
        sys.stdout.write(json.dumps(record) + "\n")
    else:
        for line in wrapped(pieces):
            sys.stdout.write(line + "\n")
        mean = f", {len(data) / len(pieces):.2f} bytes each" if pieces else ""
        say(f"{counted(len(pieces), 'token')}{mean}")
    return 0


def visible(token: bytes) -> str:
    """The bytes of a token as characters that can be seen and told apart."""
    from slim.safe_text import safe_text

    text = token.decode("utf-8", errors="surrogateescape")
    text = "".join(f"<{ord(c) - 0xDC00:02X}>" if "\udc80" <= c <= "\udcff" else c for c in text)
    return safe_text(text.replace(" ", "␣").replace("\n", "↵").replace("\t", "⇥"))


def wrapped(pieces: list[str]) -> list[str]:
    """Pieces between bars, in lines of at most WIDTH characters where a piece allows it."""
    lines: list[str] = []
    line = ""
    for piece in pieces:
        if line and len(line) + len(piece) + 1 > WIDTH:
            lines.append(line + "|")
            line = ""
        line += "|" + piece
    return [*lines, line + "|"] if line else lines
