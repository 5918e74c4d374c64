"""`slim eval MODEL DATA`: how well a model predicts a text."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from slim.cli.training import DATA_HELP, optional_count
from slim.config import PRECISIONS
from slim.errors import ModelFileError
from slim.settings import SPLITS

if TYPE_CHECKING:
    from slim.confidence_report import ConfidenceReport
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
    parser.add_argument("data", metavar="DATA", help=DATA_HELP)
    parser.add_argument(
        "--split",
        choices=SPLITS,
        default="file",
        help="where a file without <|endoftext|> is cut into documents (default: file, not at all)",
    )
    parser.add_argument(
        "--plain", action="store_true", help="User: and Assistant: are text like any other"
    )
    parser.add_argument(
        "--precision",
        choices=PRECISIONS,
        default="auto",
        help="of the operands of matrix products (default: auto, bf16 where the CPU is fast at it)",
    )
    parser.add_argument("--threads", metavar="N", help="CPU threads (default: all cores)")
    parser.add_argument(
        "--calibration",
        action="store_true",
        help="judge its confidence instead: whether p come true as often as they say, before and after one "
        "temperature fitted on half of the text, and whether the stop rule foresees what follows",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Evaluate and print."""
    threads = optional_count("--threads", args.threads, smallest=1)

    from slim.cli.stage import show_stages
    from slim.compute import stream
    from slim.confidence_report import ConfidenceReport
    from slim.evaluate import Evaluation

    (result,) = show_stages(stream(_events(args, threads or 0)))
    if isinstance(result, ConfidenceReport):
        _show_report(args, result)
        return 0
    assert isinstance(result, Evaluation)
    if not math.isfinite(result.nats):
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


def _show_report(args: argparse.Namespace, report: ConfidenceReport) -> None:
    from slim.confidence_report import as_record

    if args.json:
        sys.stdout.write(json.dumps(as_record(report), allow_nan=False) + "\n")
        return
    try:
        "█│".encode(sys.stdout.encoding or "ascii")
        ascii_only = False
    except (UnicodeEncodeError, LookupError):
        ascii_only = True
    for line in report_lines(report, ascii_only):
        sys.stdout.write(line + "\n")


def report_lines(report: ConfidenceReport, ascii_only: bool = False) -> Iterator[str]:
    """A report for a person."""
    from slim.cli.diagram import reliability_diagram
    from slim.confidence_report import COVERAGES

    yield (
        f"model p on {report.documents:,} documents, {report.tokens:,} tokens "
        f"(another {report.fitted_tokens:,} to fit the temperature); first choice right: {report.accuracy:.1%}"
    )
    yield ""
    yield from reliability_diagram(report.plain.bins, ascii_only)
    yield ""
    yield f"{'':22}model p        calibrated p, temperature {report.calibrated.temperature:.3f}"
    plain, after = report.plain, report.calibrated
    yield (
        f"ECE, 15 equal bins    {plain.ece:.4f}         {after.ece:.4f}   "
        f"(95 %: {plain.ece_low:.4f} to {plain.ece_high:.4f}, {after.ece_low:.4f} to {after.ece_high:.4f})"
    )
    yield f"Full-ECE              {plain.full_ece:.4f}         {after.full_ece:.4f}"
    yield f"Brier                 {plain.brier:.4f}         {after.brier:.4f}"
    yield f"nats/token            {plain.nats:.4f}         {after.nats:.4f}"
    yield ""
    yield "which first choices are right, told by     AUROC   wrong among the surest 20 %    50 %    100 %"
    picks = [COVERAGES.index(share) for share in (0.2, 0.5, 1.0)]
    for ranking in report.rankings:
        risks = "   ".join(f"{ranking.risks[i]:6.1%}" for i in picks)
        yield f"  {ranking.name:<39} {ranking.auroc:.3f}   {'':17} {risks}"
    yield ""
    if not report.rules:
        yield "no stop rule to judge: the model is not calibrated (slim calibrate MODEL DATA)"
        return
    yield "the 32 tokens after a stop, in nats/token above documents as hard until there"
    yield "  stops of its own texts    of these    difference (95 % interval)    stops exchanged"
    for rule in report.rules:
        real = rule.real
        yield (
            f"  {rule.share:>22.0%}    {real.fired / real.documents:>8.0%}    "
            f"{real.difference:+.3f} ({real.low:+.3f} to {real.high:+.3f})    "
            f"{rule.exchanged:+.3f}, p = {rule.p_value:.2f}"
        )


def _events(
    args: argparse.Namespace, threads: int
) -> Iterator[Progress | Note | Evaluation | ConfidenceReport]:
    """The work, in the engine thread: the text first, because that is the quicker complaint."""
    from slim.compute import set_threads
    from slim.corpus import survey
    from slim.data import encode_corpus
    from slim.evaluate import evaluate
    from slim.model_file import loading_model
    from slim.text_files import named_files

    with named_files(args.data) as (files, notes):
        corpus = yield from survey(files, notes, split=args.split, plain=args.plain)
        yield from corpus.notes
        set_threads(threads)
        model, tokenizer, metadata = yield from loading_model(args.model, args.precision)
        documents = yield from encode_corpus(corpus, tokenizer)
    if args.calibration:
        from slim.confidence_report import confidence_report
        from slim.generate import usable_calibration

        record = metadata.get("calibration")
        calibration = usable_calibration(record if isinstance(record, dict) else None)
        yield (
            yield from confidence_report(
                model, documents, tokenizer.start_id, calibration, counted=documents.masks
            )
        )
        return
    n_bytes = int(documents.n_bytes.sum())
    yield (yield from evaluate(model, documents, n_bytes, tokenizer.start_id, documents.masks))
