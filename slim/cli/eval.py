"""`slim eval MODEL DATA`: how well a model predicts a text."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterator
from itertools import pairwise
from typing import TYPE_CHECKING

from slim.cli.training import optional_count
from slim.config import PRECISIONS
from slim.errors import ModelFileError
from slim.settings import SPLITS

if TYPE_CHECKING:
    from slim.evaluate import Evaluation
    from slim.events import Note, Progress


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Describe the command to argparse."""
    parser = subparsers.add_parser(
        "eval",
        help="how well a model predicts a text",
        description="Bits per byte and perplexity of MODEL on DATA: less is better, and bits per byte "
        "compare across vocabularies. Each document is predicted from its beginning on; past the "
        "context the window slides by half a context.",
    )
    parser.add_argument("model", metavar="MODEL", help="a model file")
    parser.add_argument("data", metavar="DATA", help="a text file, UTF-8")
    parser.add_argument(
        "--split",
        choices=SPLITS,
        default="file",
        help="where a file without <|endoftext|> is cut into documents (default: file, not at all)",
    )
    parser.add_argument(
        "--precision",
        choices=PRECISIONS,
        default="auto",
        help="of the operands of matrix products (default: auto, bf16 where the CPU is fast at it)",
    )
    parser.add_argument("--threads", metavar="N", help="CPU threads (default: all cores)")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Evaluate and print."""
    threads = optional_count("--threads", args.threads, smallest=1)

    from slim.cli.stage import show_stages
    from slim.compute import stream

    (result,) = show_stages(stream(_events(args, threads or 0)))
    if not math.isfinite(result.nats):  # type: ignore[union-attr]
        raise ModelFileError(f"{args.model}: its weights are damaged: the loss is not a number")
    record = {
        name: getattr(result, name)
        for name in ("nats_per_token", "bits_per_byte", "perplexity", "tokens", "bytes")
    }
    if args.json:
        sys.stdout.write(json.dumps(record, allow_nan=False) + "\n")
        return 0
    sys.stdout.write(
        "{bits_per_byte:.4f} bits/byte   {nats_per_token:.4f} nats/token   "
        "perplexity {perplexity:,.2f}\n({tokens:,} tokens, {bytes:,} bytes)\n".format(**record)
    )
    return 0


def _events(args: argparse.Namespace, threads: int) -> Iterator[Progress | Note | Evaluation]:
    """The work, in the engine thread: the text first, because that is the quicker complaint."""
    from slim.compute import set_threads
    from slim.corpus import read_corpus
    from slim.evaluate import evaluate
    from slim.model_file import loading_model

    corpus = read_corpus(args.data, split=args.split)
    yield from corpus.notes
    set_threads(threads)
    model, tokenizer, _ = yield from loading_model(args.model, args.precision)
    ids, starts = yield from tokenizer.encode_corpus(corpus.documents)
    documents = [ids[first:last] for first, last in pairwise(starts.tolist())]
    yield (yield from evaluate(model, documents, corpus.n_bytes, tokenizer.eos_id))
