"""`slim runs [DIR|RUN ...]`: what was trained, beside each other."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from slim.cli.lines import say
from slim.errors import UsageError
from slim.safe_text import path_in_words

if TYPE_CHECKING:
    from slim.run_record import RunRecord

SORTS = ("age", "best", "name")
SPARK_WIDTH = 24
NARROWEST_SPARK = 6
PLOT_SUFFIX = ".svg"
_RIGHT = {"steps", "bits/byte", "at step", "tokens/s", "time", "age"}


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Describe the command to argparse."""
    parser = subparsers.add_parser(
        "runs",
        help="list and compare training runs",
        description="List the runs of a folder, or compare those that are named: where they stand, the best "
        "loss on held-out text, speed, the loss as a line.",
    )
    parser.add_argument(
        "places",
        metavar="DIR|RUN",
        nargs="*",
        default=["."],
        help="folders that hold runs, or runs themselves: OUT or OUT.run (default: this folder)",
    )
    parser.add_argument(
        "--sort", choices=SORTS, default="age", help="latest first, best first, or by name"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object per run")
    add_plot_option(parser)
    parser.set_defaults(run=run)


def add_plot_option(group: argparse._ActionsContainer) -> None:
    """`--plot`, for every command that knows of runs."""
    group.add_argument("--plot", metavar="FILE.svg", help="draw the loss curves into a file")


def run(args: argparse.Namespace) -> int:
    """List the runs; the exit code is 3 when there are none."""
    from slim.run_record import find_runs, read_run

    check_plot(args.plot)
    outs = dict.fromkeys(out for place in args.places for out in find_runs(place))
    runs = _sorted([read_run(out) for out in outs], args.sort)
    if args.plot is not None and runs:
        write_plot(args.plot, runs)
    if args.json:
        for record in runs:
            sys.stdout.write(json.dumps(as_record(record), allow_nan=False) + "\n")
        return 0 if runs else 3
    if not runs:
        say(f"slim: no runs in {', '.join(args.places)}")
        return 3
    width = shutil.get_terminal_size((100, 24)).columns if sys.stdout.isatty() else 120
    for line in table(runs, width, _unicode()):
        sys.stdout.write(line + "\n")
    return 0


def check_plot(path: str | None) -> None:
    """UsageError or SaveError for a file that `--plot` could not write, before any work is done."""
    if path is None:
        return
    if not path.lower().endswith(PLOT_SUFFIX):
        raise UsageError(f"--plot writes a picture, so its file must end in .svg, but is {path!r}")
    from slim.atomic_file import check_writable

    check_writable(path)


def write_plot(path: str, runs: Sequence[RunRecord]) -> None:
    """Draw the curves of runs into a file."""
    from slim.atomic_file import replace_file
    from slim.loss_plot import MOST_RUNS, loss_svg

    if len(runs) > MOST_RUNS:
        raise UsageError(
            f"at most {MOST_RUNS} runs fit into a picture, but there are {len(runs)}: name some"
        )
    names = _names([record.out for record in runs])
    curves = [record.curve(name) for record, name in zip(runs, names, strict=True)]
    title = f"Loss of {names[0]}" if len(runs) == 1 else f"Loss of {len(runs)} runs"
    replace_file(path, [loss_svg(curves, title).encode("utf-8", "replace")])


def as_record(run: RunRecord) -> dict[str, object]:
    """A run as a JSON object; its curves are in metrics.jsonl."""
    return {
        "out": path_in_words(str(run.out)),
        "data": path_in_words(run.data),
        **{
            name: getattr(run, name)
            for name in (
                *("state", "problem", "command", "step", "total_steps", "parameters"),
                *("loss", "best_bits_per_byte", "best_step", "tokens_per_second"),
                *("elapsed_seconds", "age_seconds"),
            )
        },
    }


def table(runs: Sequence[RunRecord], width: int, unicode: bool = True) -> list[str]:
    """The runs as lines of text, in columns; what does not fit into `width` is the curve, then the end of a line."""
    from slim.run_state import ASCII_BLOCKS, BLOCKS, sparkline
    from slim.safe_text import safe_line

    names = _names([record.out for record in runs])
    rows = [_row(safe_line(name), record) for name, record in zip(names, runs, strict=True)]
    header = list(rows[0])
    widths = {name: max(len(name), *(len(row[name]) for row in rows)) for name in header}
    room = min(SPARK_WIDTH, width - sum(widths.values()) - 2 * len(header))
    lines = [_in_columns({name: name for name in header}, widths)]
    if room >= NARROWEST_SPARK:
        lines[0] += "  loss"
    for row, record in zip(rows, runs, strict=True):
        line = _in_columns(row, widths)
        if record.state == "unreadable":
            line = f"{row['run']:<{widths['run']}}  unreadable: {safe_line(record.problem)}"
        elif room >= NARROWEST_SPARK:
            values = _spark_values(record, room)
            line += "  " + sparkline(values, BLOCKS if unicode else ASCII_BLOCKS)
        lines.append(line)
    return [line.rstrip()[:width] for line in lines]


def _row(name: str, record: RunRecord) -> dict[str, str]:
    from slim.wording import duration

    best, speed = record.best_bits_per_byte, record.tokens_per_second
    return {
        "run": name,
        "state": record.state,
        "steps": f"{record.step:,}/{record.total_steps:,}",
        "bits/byte": "-" if best is None else f"{best:.3f}",
        "at step": "-" if record.best_step is None else f"{record.best_step:,}",
        "tokens/s": "-" if speed is None else f"{speed:,.0f}",
        "time": duration(record.elapsed_seconds),
        "age": _age(record.age_seconds) if record.changed else "-",
    }


def _in_columns(row: dict[str, str], widths: dict[str, int]) -> str:
    return "  ".join(
        f"{text:>{widths[name]}}" if name in _RIGHT else f"{text:<{widths[name]}}"
        for name, text in row.items()
    )


def _sorted(runs: list[RunRecord], order: str) -> list[RunRecord]:
    if order == "name":
        return sorted(runs, key=lambda record: str(record.out))
    if order == "best":
        return sorted(
            runs, key=lambda record: (record.best_bits_per_byte is None, record.best_bits_per_byte)
        )
    return sorted(runs, key=lambda record: (record.state != "training", -record.changed))


def _names(outs: Sequence[Path]) -> list[str]:
    """The names of files, or their paths where two have the same name."""
    names = [out.name for out in outs]
    return names if len(set(names)) == len(names) else [str(out) for out in outs]


def _spark_values(record: RunRecord, width: int) -> list[float]:
    from slim.run_state import Curve

    curve = Curve()
    for point in record.training:
        curve.add(point.bits_per_byte)
    return curve.columns(width)


def _age(seconds: float) -> str:
    """`now`, `5 min`, `3 h` or `12 d`."""
    if seconds < 60:
        return "now"
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= size:
            return f"{int(seconds // size)} {unit}"
    return "now"


def _unicode() -> bool:
    return "utf" in (sys.stdout.encoding or "").lower()
