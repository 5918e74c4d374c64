"""`slim bench`: how fast SLiM is on this machine, next to what the machine can do and to rivals."""

from __future__ import annotations

import argparse
import json
import sys
import time
from typing import TYPE_CHECKING, Any

from slim.config import PRESETS, ModelConfig
from slim.errors import SlimError, UsageError

if TYPE_CHECKING:
    from slim.bench.suite import BenchSettings

SECTIONS = ("training", "generation", "tokenizer", "startup")
RIVALS = ("torch", "llama.cpp", "tokenizers")


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Describe the command to argparse."""
    parser = subparsers.add_parser(
        "bench",
        help="how fast this machine is with SLiM",
        description="Measure training, prefill, decoding, tokenizer and start-up on this machine, "
        "next to what it can do at most, and to rivals that are installed. The table goes to stdout. "
        "Nothing else should run meanwhile.",
    )
    parser.add_argument(
        "--only",
        action="append",
        choices=SECTIONS,
        help="measure this section; may be given several times (default: all)",
    )
    parser.add_argument(
        "--against",
        action="append",
        default=[],
        choices=RIVALS,
        help="measure this rival too, turn by turn; may be given several times "
        "(pip install 'slim-lm[rivals]')",
    )
    parser.add_argument(
        "--rounds", metavar="N", type=int, help="times that each is measured, turn by turn (default 5; quick: 2)"
    )
    parser.add_argument("--quick", action="store_true", help="less of everything: half a minute")
    parser.add_argument(
        "--profile", action="store_true", help="the share of each kernel in a step and in a token"
    )
    parser.add_argument(
        "--preset", choices=PRESETS, default="default", help="sizes of the model (default: default)"
    )
    parser.add_argument("--threads", metavar="N", type=int, help="CPU threads (default: all cores)")
    parser.add_argument("--text", metavar="FILE", help="for the tokenizer (default: the demo's)")
    parser.add_argument(
        "--llama-library",
        metavar="FILE",
        default="",
        help="a libllama to measure in place of the one in the xllamacpp wheel",
    )
    parser.add_argument("--json", action="store_true", help="everything as JSON in a last line")
    parser.add_argument("-q", "--quiet", action="store_true", help="do not tell what is being done")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Measure and print the table."""
    from slim.bench.report import as_json, as_text
    from slim.bench.suite import conditions, measure
    from slim.safe_text import safe_text

    settings = _settings(args)
    findings = []
    failure: SlimError | None = None
    try:
        for event in measure(settings):
            if not isinstance(event, str):
                findings.append(event)
            elif not args.quiet:
                sys.stderr.write(f"{time.strftime('%H:%M:%S')} {safe_text(event)}\n")
                sys.stderr.flush()
    except SlimError as error:  # what has been found until then is worth its minutes
        if not findings:
            raise
        failure = error
    about = conditions(settings)
    for line in as_text(about, findings):
        sys.stdout.write(safe_text(line) + "\n")
    if args.json:
        sys.stdout.write(json.dumps(as_json(about, findings), allow_nan=False) + "\n")
    if failure is not None:
        raise failure
    return 0


def _settings(args: argparse.Namespace) -> BenchSettings:
    from pathlib import Path

    from slim.bench.machine import describe_machine
    from slim.bench.suite import BenchSettings

    cores = describe_machine().cores
    rounds = (2 if args.quick else 5) if args.rounds is None else args.rounds
    threads = cores if args.threads is None else args.threads
    if rounds < 1:
        raise UsageError(f"--rounds must be at least 1, got {rounds}")
    if not 1 <= threads <= cores:
        raise UsageError(f"--threads must be from 1 to {cores}, the cores there are, got {threads}")
    text = None if args.text is None else Path(args.text)
    if text is not None and not text.is_file():
        raise UsageError(f"there is no file {args.text}")
    sizes: dict[str, Any] = dict(PRESETS[args.preset])
    return BenchSettings(
        config=ModelConfig(**sizes),
        threads=threads,
        sections=tuple(args.only or SECTIONS),
        against=tuple(dict.fromkeys(args.against)),
        rounds=rounds,
        quick=args.quick,
        profile=args.profile,
        text=text,
        library=args.llama_library,
    )
