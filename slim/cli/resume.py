"""`slim resume OUT`: go on with a run where it stopped."""

from __future__ import annotations

import argparse

from slim.cli.training import add_output_options, optional_count, resume_out


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Describe the command to argparse."""
    parser = subparsers.add_parser(
        "resume",
        help="go on with a run that was stopped",
        description="Continue the run of OUT from OUT.run/, with the settings it was started with: to "
        "the byte what it would have been without the pause.",
    )
    parser.add_argument("out", metavar="OUT", help="the model file that the run writes")
    parser.add_argument("--threads", metavar="N", help="CPU threads (default: all cores)")
    add_output_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Train on; the exit code."""
    return resume_out(args, optional_count("--threads", args.threads, smallest=1))
