"""`slim calibrate MODEL DATA`: find out anew where a model is unsure, and write it into its file."""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from slim.cli.lines import say, write_rows
from slim.cli.training import optional_count
from slim.config import PRECISIONS
from slim.errors import ModelFileError, UsageError
from slim.settings import SPLITS

if TYPE_CHECKING:
    from slim.calibration import Calibration
    from slim.events import Note, Progress

SECONDS = 60.0


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Describe the command to argparse."""
    parser = subparsers.add_parser(
        "calibrate",
        help="find out anew how sure a model usually is",
        description="Let MODEL write texts and read DATA, which it was not trained on, and write into its file where "
        "--stop-confidence auto stops, which p are usual, and what they are worth. Training does this at its end.",
    )
    parser.add_argument("model", metavar="MODEL", help="a model file; it is replaced")
    parser.add_argument(
        "data", metavar="DATA", help="a text file, UTF-8, that the model was not trained on"
    )
    parser.add_argument(
        "--split",
        choices=SPLITS,
        default="file",
        help="where a file without <|endoftext|> is cut into documents (default: file, not at all)",
    )
    parser.add_argument("--samples", metavar="N", help="texts that it writes (default 512)")
    parser.add_argument(
        "--seconds",
        metavar="S",
        type=float,
        default=SECONDS,
        help=f"that it may take; fewer texts are written and read then (default {SECONDS:g})",
    )
    parser.add_argument("--seed", metavar="S", type=int, default=0, help="of the texts (default 0)")
    parser.add_argument(
        "--precision",
        choices=PRECISIONS,
        default="auto",
        help="of the operands of matrix products: calibrate in the one that generates (default: auto)",
    )
    parser.add_argument("--threads", metavar="N", help="CPU threads (default: all cores)")
    parser.add_argument("--json", action="store_true", help="the calibration as one JSON object")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Calibrate, write the file, print what came out."""
    threads = optional_count("--threads", args.threads, smallest=1)
    samples = optional_count("--samples", args.samples, smallest=1)
    if not 0.0 <= args.seconds < math.inf:
        raise UsageError(f"--seconds must be 0 or more, but is {args.seconds:g}")

    from slim.calibration import Calibration
    from slim.cli.info import calibration_rows
    from slim.cli.stage import show_stages
    from slim.compute import stream

    began = time.monotonic()
    (result,) = show_stages(stream(_events(args, samples, threads or 0)))
    assert isinstance(result, Calibration)
    record = result.as_dict()
    if args.json:
        sys.stdout.write(json.dumps(record, allow_nan=False) + "\n")
        return 0
    write_rows(calibration_rows(record))
    say(f"{args.model}: calibrated in {time.monotonic() - began:.1f} s")
    return 0


def _events(
    args: argparse.Namespace, samples: int | None, threads: int
) -> Iterator[Progress | Note | Calibration]:
    """The work, in the engine thread."""
    from slim import checkpoint
    from slim.calibrate import SAMPLES, calibrate
    from slim.calibration import Calibration
    from slim.compute import set_threads
    from slim.corpus import survey
    from slim.data import encode_corpus
    from slim.model_file import OPTIMIZER_PREFIX, loading_model, save_model
    from slim.text_files import find_files

    corpus = yield from survey(*find_files(args.data), split=args.split)
    yield from corpus.notes
    set_threads(threads)
    _, shapes = checkpoint.read_metadata(args.model)
    if any(name.startswith(OPTIMIZER_PREFIX) for name in shapes):
        raise ModelFileError(
            f"{args.model}: is a checkpoint of a run, which a calibration would spoil: calibrate the result"
        )
    model, tokenizer, metadata = yield from loading_model(args.model, args.precision)
    documents = yield from encode_corpus(corpus, tokenizer)
    steps = calibrate(
        *(model, tokenizer, list(documents)),
        samples=SAMPLES if samples is None else samples,
        seconds=args.seconds,
        seed=args.seed,
        counted=documents.masks,
    )
    for event in steps:
        if isinstance(event, Calibration):
            save_model(args.model, model.parameters, {**metadata, "calibration": event.as_dict()})
        yield event
