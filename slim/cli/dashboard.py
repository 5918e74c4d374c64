"""`slim-tui [PATH ...]`: the dashboard, and what comes after it on the command line."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from slim import __version__
from slim.errors import UsageError
from slim.request import RunControl

if TYPE_CHECKING:
    from slim.events import Event, TrainFinished
    from slim.tui.app import Outcome
    from slim.tui.session import LocalRun

RUN_SUFFIX = ".run"
EPILOG = """\
  slim-tui               models and runs in this folder; Enter trains a first model
  slim-tui base.bin      write with a model and chat with it
  slim-tui base.bin.run  watch a run that another process trains
  slim-tui a.run b.run   runs laid over each other
  slim-tui corpus.txt    the form for a run on a text
"""


def main(argv: Sequence[str] | None = None) -> int:
    """The program `slim-tui`; the exit code of the process."""
    from slim.cli import guarded

    return guarded(lambda: _run(list(sys.argv[1:] if argv is None else argv)))


def _run(arguments: list[str]) -> int:
    from slim.cli import Parser

    parser = Parser(
        prog="slim-tui",
        description="The dashboard: watch a model learn, read what it writes, chat with it.",
        epilog=EPILOG,
    )
    parser.add_argument("paths", metavar="PATH", nargs="*", help="a model, a text, or runs")
    parser.add_argument("--version", action="version", version=f"slim {__version__}")
    try:
        paths = [Path(path) for path in parser.parse_args(arguments).paths]
    except SystemExit as stop:  # --help and --version
        return int(stop.code or 0)
    _check(paths)
    check_terminal()
    from slim.tui import run_dashboard

    outcome = run_dashboard(paths)
    told = told_arguments()
    code, finished = after(outcome, outcome.run, told)
    if outcome.run is not None:
        from slim.cli.training import say_farewell

        say_farewell(told, finished, outcome.run.out)
    return code


def _check(paths: list[Path]) -> None:
    """UsageError for a path that the dashboard could not open."""
    from slim.input_file import where_to_look

    for path in paths:
        if not path.exists():
            raise UsageError(f"{path}: there is no such file{where_to_look(path)}")
        if path.is_dir() and path.resolve().suffix != RUN_SUFFIX:
            raise UsageError(f"{path}: is a folder, but no run (NAME.run)")
        if len(paths) > 1 and not path.is_dir():
            raise UsageError(f"{path}: only runs (NAME.run) can be shown together")


def check_terminal() -> None:
    """UsageError where there is no terminal to draw on."""
    streams = sys.stdin, sys.stdout, sys.stderr  # Textual draws on the last
    if not all(stream.isatty() for stream in streams) or os.environ.get("TERM") == "dumb":
        raise UsageError("the dashboard needs a terminal; `slim` does the same by commands")


def told_arguments() -> argparse.Namespace:
    """How a run that outlives the dashboard is told."""
    return argparse.Namespace(json=False, quiet=False, verbose=False, tui=False)


def drive_in_dashboard(
    start: Callable[[RunControl], Iterator[Event]], args: argparse.Namespace
) -> tuple[int, TrainFinished | None]:
    """Train under the dashboard; see `slim.cli.training.drive`. Its error is raised when the dashboard is left."""
    check_terminal()
    from slim.compute import submit
    from slim.tui import run_dashboard
    from slim.tui.session import LocalRun

    control = RunControl()
    run = LocalRun(submit(start(control)), control, args.out)
    outcome = run_dashboard(run=run)
    return after(outcome, run, args)


def after(
    outcome: Outcome, run: LocalRun | None, args: argparse.Namespace
) -> tuple[int, TrainFinished | None]:
    """What is left to do when the dashboard is gone: tell the rest of a run that still trains."""
    from slim.cli.training import tell

    code = 128 + outcome.signal if outcome.signal is not None else int(outcome.failed)
    if run is None:
        return code, None
    if outcome.run is not run:
        if run.problem is not None:
            raise run.problem
        if outcome.run is None:
            return code, run.view.state.finished
        run = outcome.run
    run.catch_up()
    state = run.view.state
    past = [event for event in (state.started, state.best, state.last) if event is not None]
    asked = run.control.stop
    told, finished = tell(iter(run.job), run.control, args, f"slim {run.out}", past=past)
    ended = finished is None or finished.reason == "interrupted"
    return (code if asked and ended else told), finished
