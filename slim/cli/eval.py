"""`slim eval MODEL DATA`: how well a model predicts a text."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator

from slim.cli.training import optional_count
from slim.config import PRECISIONS
from slim.settings import SPLITS


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Describe the command to argparse."""
    parser = subparsers.add_parser(
        "eval",
        help="how well a model predicts a text",
        description="Bits per byte and perplexity of MODEL on DATA. Each document is predicted from its "
        "beginning; past the context the window slides by half a context.",
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
        "--precision", choices=PRECISIONS, default="auto", help="as in training (default: auto)"
    )
    parser.add_argument("--threads", metavar="N", help="CPU threads (default: all cores)")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Evaluate and print."""
    threads = optional_count("--threads", args.threads, smallest=1)

    from slim.cli.stage import show_stages
    from slim.compute import stream
    from slim.evaluate import Evaluation
    from slim.events import Note, Progress

    def events() -> Iterator[Progress | Note | Evaluation]:
        from slim.compute import set_threads
        from slim.corpus import read_corpus
        from slim.evaluate import evaluate
        from slim.model_file import load_model

        set_threads(threads or 0)
        model, tokenizer, _ = load_model(args.model, args.precision)
        corpus = read_corpus(args.data, split=args.split)
        yield from corpus.notes
        ids, starts = yield from tokenizer.encode_corpus(corpus.documents)
        documents = [ids[first:last] for first, last in zip(starts, starts[1:], strict=False)]
        yield (yield from evaluate(model, documents, corpus.n_bytes, tokenizer.eos_id))

    result: Evaluation | None = None
    for event in show_stages(stream(events())):
        if isinstance(event, Evaluation):
            result = event
    assert result is not None
    record = {
        "nats_per_token": result.nats_per_token,
        "bits_per_byte": result.bits_per_byte,
        "perplexity": result.perplexity,
        "tokens": result.tokens,
        "bytes": result.bytes,
    }
    if args.json:
        sys.stdout.write(json.dumps(record, allow_nan=False) + "\n")
    else:
        sys.stdout.write(
            f"{result.bits_per_byte:.4f} bits/byte   {result.nats_per_token:.4f} nats/token   "
            f"perplexity {result.perplexity:.2f}   ({result.tokens:,} tokens, {result.bytes:,} bytes)\n"
        )
    return 0
