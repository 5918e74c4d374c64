"""`slim train DATA EPOCHS OUT`: a small model from a small text of one's own."""

from __future__ import annotations

import argparse

from slim.cli.training import (
    DATA_HELP,
    Request,
    add_run_options,
    positive_number,
    run_request,
    settings_of,
)

ORDER = "slim train DATA EPOCHS OUT"
EXAMPLES = """\
examples:
  slim train notes.txt 50 quick.bin
  slim train notes/ 50 quick.bin --plot quick.svg
"""


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Describe the command to argparse."""
    parser = subparsers.add_parser(
        "train",
        help="train a small model from a small text, quickly",
        description="Train a model whose vocabulary and sizes fit DATA, EPOCHS times through at most: "
        "it stops when the held-out text no longer gains, and OUT holds the best.",
        epilog=EXAMPLES,
    )
    parser.add_argument("data", metavar="DATA", help=DATA_HELP)
    parser.add_argument("epochs", metavar="EPOCHS", help="how often the text is read at most")
    parser.add_argument("out", metavar="OUT", help="the model file to write")
    add_run_options(parser, sizes=True)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Train; the exit code."""
    return run_request(
        args,
        Request(
            command="train",
            data=args.data,
            epochs=positive_number("EPOCHS", args.epochs, ORDER),
            out=args.out,
            settings=settings_of(args),
        ),
    )
