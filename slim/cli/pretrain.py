"""`slim pretrain CORPUS EPOCHS OUT [MAX_BYTES]`: a model from a corpus."""

from __future__ import annotations

import argparse
import re
from fractions import Fraction

from slim.cli.training import (
    DATA_HELP,
    LARGEST_COUNT,
    Request,
    add_run_options,
    positive_number,
    run_request,
    settings_of,
)
from slim.errors import UsageError

ORDER = "slim pretrain CORPUS EPOCHS OUT [MAX_BYTES]"
EXAMPLES = """\
examples:
  slim pretrain corpus.txt 3 base.bin                 three times through
  slim pretrain corpus.txt 3 base.bin 64MB            the first 64 MB of it
  slim pretrain corpus.txt 100 base.bin --minutes 30  whichever comes first
  zcat corpus.gz | slim pretrain - 3 base.bin         from another program
  slim resume base.bin                                go on after Ctrl-C
"""
_SIZE = re.compile(
    r"(\d[\d_]{0,19}(?:\.\d{1,9})?) ?(?:([kmgt])(i?)b?|b)?", re.IGNORECASE | re.ASCII
)


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Describe the command to argparse."""
    parser = subparsers.add_parser(
        "pretrain",
        help="train a model from a corpus",
        description="Build a vocabulary from CORPUS and train a model on it, EPOCHS times through. "
        "OUT appears at the first validation and always holds the best model so far; OUT.run/ holds "
        "what is needed to go on.",
        epilog=EXAMPLES,
    )
    parser.add_argument("corpus", metavar="CORPUS", help=DATA_HELP)
    parser.add_argument("epochs", metavar="EPOCHS", help="how often the text is read; 0.5 is half")
    parser.add_argument("out", metavar="OUT", help="the model file to write")
    parser.add_argument(
        "max_bytes",
        metavar="MAX_BYTES",
        nargs="?",
        help="only the first so many bytes: 1000000, 1_000_000 or 64MB",
    )
    add_run_options(parser, sizes=True)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Train; the exit code."""
    return run_request(
        args,
        Request(
            command="pretrain",
            data=args.corpus,
            epochs=positive_number("EPOCHS", args.epochs, ORDER),
            out=args.out,
            max_bytes=_max_bytes(args.max_bytes),
            settings=settings_of(args),
        ),
    )


def _max_bytes(text: str | None) -> int | None:
    """1000000, 1_000_000, 1MB and 1.5 MiB in bytes."""
    if text is None:
        return None
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        raise UsageError(
            f"MAX_BYTES must be a size such as 1000000, 1_000_000 or 64MB, got {text!r} (the order is: {ORDER})"
        )
    number, unit, binary = found.groups()
    thousand = 1024 if binary else 1000
    value = int(
        Fraction(number.replace("_", "")) * thousand ** " KMGT".index((unit or " ").upper())
    )
    if not 1 <= value <= LARGEST_COUNT:
        raise UsageError(f"MAX_BYTES must be from 1 byte to 1 TB, got {text}")
    return value
