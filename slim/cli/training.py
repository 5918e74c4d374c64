"""What the training commands share: their options, and driving a run under signals and a display."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from slim.cli.lines import say
from slim.cli.runs import add_plot_option, check_plot, write_plot
from slim.config import OPTIMIZERS, PRECISIONS, PRESETS
from slim.errors import UsageError
from slim.request import Request, RunControl
from slim.settings import MODEL_KEYS, SPLITS, TRAIN_KEYS, Settings, gather

if TYPE_CHECKING:
    from slim.events import Event, TrainFinished

LARGEST_COUNT = 2**40
DATA_HELP = (
    "UTF-8 text: a file, a folder, a quoted pattern or - for stdin; .txt, .jsonl or a transcript"
)


def add_run_options(parser: argparse.ArgumentParser, *, sizes: bool) -> None:
    """The options of every command that trains; `sizes`: of a model that is made, not loaded."""
    budget = parser.add_argument_group("how long")
    budget.add_argument("--minutes", metavar="M", help="train for about M minutes at most")
    budget.add_argument("--max-steps", metavar="N", help="make N updates at most")
    recipe = parser.add_argument_group("how")
    if sizes:
        recipe.add_argument(
            "--preset", metavar="NAME", help=f"sizes of the model: {', '.join(PRESETS)}"
        )
        recipe.add_argument("--vocab-size", metavar="V", help="tokens in the vocabulary")
    recipe.add_argument("--seq-len", metavar="T", help="tokens of one training sequence")
    recipe.add_argument("--batch-tokens", metavar="N", help="tokens of one pass")
    recipe.add_argument(
        "--seed", metavar="S", help="of the first weights and the order of the text"
    )
    recipe.add_argument("--threads", metavar="N", help="CPU threads (default: all cores)")
    recipe.add_argument(
        "--precision",
        metavar="|".join(PRECISIONS),
        help="of the operands of matrix products (default: auto, bf16 where the CPU is fast at it)",
    )
    recipe.add_argument(
        "--optimizer",
        metavar="|".join(OPTIMIZERS),
        help="of the matrices inside the layers; embeddings, head and norms are always AdamW's "
        f"(default: {'muon' if sizes else 'adamw'})",
    )
    recipe.add_argument(
        "--split",
        metavar="|".join(SPLITS),
        help="where a file without <|endoftext|> is cut into documents (default: file, not at all)",
    )
    recipe.add_argument(
        "--plain",
        action="store_true",
        default=None,
        help="User: and Assistant: are text like any other, not a conversation whose answers are learnt",
    )
    recipe.add_argument("--config", metavar="FILE", help="a TOML file of settings")
    recipe.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="any single setting, such as --set learning_rate=1e-3; may be given several times "
        "(all keys are listed below)",
    )
    existing = parser.add_argument_group("when OUT exists").add_mutually_exclusive_group()
    existing.add_argument("--force", action="store_true", help="start again and replace it")
    existing.add_argument("--resume", action="store_true", help="go on where its run stopped")
    add_output_options(parser)
    parser.epilog = f"{parser.epilog or ''}\n{_keys(sizes)}"


def _keys(sizes: bool) -> str:
    """What `--set` and `--config` know."""
    model = f"  sizes     {_listed(MODEL_KEYS)}\n" if sizes else ""
    return (
        f"keys of --set and --config:\n{model}  training  {_listed(TRAIN_KEYS)}\n"
        "OUT.run/settings.json tells which values a run has\n"
    )


def _listed(keys: Iterable[str]) -> str:
    import textwrap

    return textwrap.fill(", ".join(keys), 78, initial_indent=" " * 12, subsequent_indent=" " * 12)[12:]


def add_output_options(parser: argparse.ArgumentParser) -> None:
    """How much is told, and in which form."""
    output = parser.add_argument_group("output")
    output.add_argument("--json", action="store_true", help="events as JSON lines on stdout")
    output.add_argument("-q", "--quiet", action="store_true", help="warnings and errors only")
    output.add_argument("-v", "--verbose", action="store_true", help="a line for every step")
    add_plot_option(output)
    output.add_argument("--tui", action="store_true", help="watch it in the dashboard")


def settings_of(args: argparse.Namespace) -> Settings:
    """The settings that options, `--set` and `--config` add up to."""
    flags: dict[str, object] = {
        "split": args.split,
        "plain": args.plain,
        "precision": args.precision,
        "optimizer": args.optimizer,
        "preset": getattr(args, "preset", None),
        "minutes": optional_number("--minutes", args.minutes),
        "max_steps": optional_count("--max-steps", args.max_steps, smallest=1),
        "seed": optional_count("--seed", args.seed, smallest=0),
        "threads": optional_count("--threads", args.threads, smallest=1),
        "batch_tokens": optional_count("--batch-tokens", args.batch_tokens, smallest=1),
        "seq_len": optional_count("--seq-len", args.seq_len, smallest=1),
        "vocab_size": optional_count("--vocab-size", getattr(args, "vocab_size", None), smallest=1),
    }
    return gather(flags, args.set, args.config)


def positive_number(name: str, text: str, order: str = "") -> float:
    """A number above 0; `order` recalls the order of the arguments, which may have been swapped."""
    try:
        value = float(text)
    except ValueError:
        hint = f" (the order is: {order})" if order else ""
        raise UsageError(f"{name} must be a number, got {text!r}{hint}") from None
    if not 0 < value <= 1e6:
        raise UsageError(f"{name} must be above 0 and at most a million, got {text}")
    return value


def optional_number(name: str, text: str | None) -> float | None:
    """The value of an option that is a number above 0."""
    return None if text is None else positive_number(name, text)


def optional_count(name: str, text: str | None, smallest: int) -> int | None:
    """The value of an option that is a whole number."""
    if text is None:
        return None
    try:
        value = int(text)
    except ValueError:
        raise UsageError(f"{name} must be a whole number, got {text!r}") from None
    if not smallest <= value <= LARGEST_COUNT:
        raise UsageError(f"{name} must be a whole number of at least {smallest}, got {text}")
    return value


def run_request(args: argparse.Namespace, request: Request) -> int:
    """Start the run that is asked for, or go on with it (`--resume`), and say how it ended; the exit code."""
    request = replace(request, force=args.force, resume=args.resume)
    check_plot(args.plot)

    def events(control: RunControl) -> Iterator[Event]:
        from slim.run import start

        yield from start(request, control)

    code, finished = drive(events, args, f"slim {request.command} {request.data} → {request.out}")
    say_farewell(args, finished, request.out)
    _draw(args, finished, request.out)
    return code


def resume_out(args: argparse.Namespace, threads: int | None) -> int:
    """Go on with the run of args.out and say how it ended; the exit code."""
    check_plot(args.plot)

    def events(control: RunControl) -> Iterator[Event]:
        from slim.run import resume

        yield from resume(args.out, control, threads)

    code, finished = drive(events, args, f"slim resume {args.out}")
    say_farewell(args, finished, args.out)
    _draw(args, finished, args.out)
    return code


def _draw(args: argparse.Namespace, finished: TrainFinished | None, out: str) -> None:
    """The picture that `--plot` asks for, once there is a run."""
    if args.plot is not None and finished is not None and finished.step > 0:
        from slim.run_record import read_run

        write_plot(args.plot, [read_run(out)])


def say_farewell(args: argparse.Namespace, finished: TrainFinished | None, out: str) -> None:
    """A line for what is there now, and one for what to do next: with `--quiet` too where a signal ended it."""
    if finished is not None and (finished.reason == "interrupted" or not args.quiet):
        from slim.wording import farewell

        with contextlib.suppress(OSError):
            for line in farewell(finished, out):
                say(line)


def drive(
    start: Callable[[RunControl], Iterator[Event]],
    args: argparse.Namespace,
    title: str,
) -> tuple[int, TrainFinished | None]:
    """Run the events of `start(control)` in the engine thread and tell them, in the dashboard with `--tui`.

    Returns the exit code and how the training ended. The first signal ends it after the step that is
    being computed, saved; the second one at once.
    """
    from slim.compute import stream

    if args.tui:
        from slim.cli.dashboard import drive_in_dashboard

        return drive_in_dashboard(start, args)
    control = RunControl()
    return tell(stream(start(control)), control, args, title)


def tell(
    events: Iterable[Event],
    control: RunControl,
    args: argparse.Namespace,
    title: str,
    past: Iterable[Event] = (),
) -> tuple[int, TrainFinished | None]:
    """Tell the events of a run, and stop it when a signal comes; `past` are those that only the display is to know."""
    from slim.cli.display import STOPPING, STOPPING_EARLY, SilentDisplay, choose_display
    from slim.cli.stopping import StopRequest
    from slim.events import RunStarted, TrainFinished

    display = choose_display(title, json_lines=args.json, quiet=args.quiet, verbose=args.verbose)
    finished: TrainFinished | None = None
    trains = announced = False
    drawing = True  # a signal may come in the middle of a line

    def announce() -> None:
        nonlocal announced
        announced = True
        display.stopping(STOPPING if trains else STOPPING_EARLY)

    def stop_run(_: int) -> None:
        control.stop = True
        if not drawing and finished is None:  # the next event may be long in coming
            with contextlib.suppress(OSError):
                announce()

    try:
        with StopRequest(stop_run, ends_program=True) as stop:
            with contextlib.suppress(OSError):
                for event in past:
                    trains = trains or isinstance(event, RunStarted)
                    display.show(event)
            drawing = False
            for event in events:
                drawing = True
                trains = trains or isinstance(event, RunStarted)
                if isinstance(event, TrainFinished):
                    finished = event
                try:
                    if stop.signal is not None and not announced and finished is None:
                        announce()
                    display.show(event)
                except BrokenPipeError:
                    if args.json:
                        control.stop = True
                    display = SilentDisplay()
                except OSError:  # the terminal is gone (SIGHUP), or the log's disk is full
                    display = SilentDisplay()
                drawing = False
    finally:
        with contextlib.suppress(OSError):
            display.close()
    ended_early = finished is None or finished.reason == "interrupted"
    return (stop.exit_code if ended_early else 0), finished
