"""`slim finetune BASE DATA EPOCHS OUT`: teach a model another text."""

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

ORDER = "slim finetune BASE DATA EPOCHS OUT"
EXAMPLES = """\
examples:
  slim finetune base.bin script.txt 20 script.bin
  slim finetune base.bin talks.jsonl 5 chat.bin  {"messages": [...]} per line
  slim finetune base.bin talks.txt 5 chat.bin    lines User: and Assistant:
"""


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Describe the command to argparse."""
    parser = subparsers.add_parser(
        "finetune",
        help="teach a model another text",
        description="Train the model BASE further on DATA: its vocabulary and sizes stay, the learning "
        "rate is lower, training stops when the held-out text no longer gains, and OUT holds the best.",
        epilog=EXAMPLES,
    )
    parser.add_argument("base", metavar="BASE", help="a model file; it stays as it is")
    parser.add_argument("data", metavar="DATA", help=DATA_HELP)
    parser.add_argument("epochs", metavar="EPOCHS", help="how often the text is read at most")
    parser.add_argument("out", metavar="OUT", help="the model file to write")
    add_run_options(parser, sizes=False)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Train; the exit code."""
    return run_request(
        args,
        Request(
            command="finetune",
            base=args.base,
            data=args.data,
            epochs=positive_number("EPOCHS", args.epochs, ORDER),
            out=args.out,
            settings=settings_of(args),
        ),
    )
