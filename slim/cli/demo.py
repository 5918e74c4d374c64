"""`slim demo`: a model that tells stories, from nothing, in four minutes, and what it said on the way."""

from __future__ import annotations

import argparse
import json
import shlex
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from slim.cli.lines import say
from slim.cli.training import drive, optional_count, positive_number
from slim.config import GenerateConfig
from slim.demo_recipe import CLOSING_SECONDS, MINUTES, OUT, PROMPT, demo_request
from slim.errors import SlimError, UsageError
from slim.request import RunControl

if TYPE_CHECKING:
    from rich.console import Console

    from slim.events import Event, GenerateFinished, Note, Progress, TokenGenerated

BEGAN = time.monotonic()

STORIES_FROM = ("Once upon a time, a little fox", "One day, a girl named Mia", "There was a")
STORY = GenerateConfig(max_tokens=220, temperature=0.6, seed=1)

WIDTH = 80
SHOWN_SHARES = (0.0, 0.25, 1.0)  # of the run, at which its answers are compared
ANSWER_LINES = 5


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Describe the command to argparse."""
    parser = subparsers.add_parser(
        "demo",
        help="train a first model in four minutes",
        description="Train a small model on the stories that ship with SLiM, with everything to be "
        "seen, and let it tell three. Stopped with Ctrl-C, the same command goes on; when it is "
        "done, the same command shows what came of it and tells three new stories.",
    )
    parser.add_argument(
        "--minutes",
        metavar="M",
        help=f"how long all of it takes, compiling included (default {MINUTES:g})",
    )
    parser.add_argument(
        "--out", metavar="FILE", default=OUT, help=f"the model file to write (default {OUT})"
    )
    parser.add_argument("--threads", metavar="N", help="CPU threads (default: all cores)")
    parser.add_argument("--force", action="store_true", help="start again from nothing")
    parser.set_defaults(run=run, json=False, quiet=False, verbose=False, tui=False)


def run(args: argparse.Namespace) -> int:
    """Train or go on, then show; the exit code."""
    minutes = MINUTES if args.minutes is None else positive_number("--minutes", args.minutes)
    threads = optional_count("--threads", args.threads, smallest=1)
    state = "none" if args.force else state_of(args.out)
    if state == "foreign":
        raise UsageError(
            f"{args.out}: exists and is not the demo's: choose another file with --out, "
            "or replace it with --force"
        )
    if state != "finished":
        _say(_welcome(args, state, minutes))
        code, finished = drive(
            lambda control: _training(args, state, minutes, threads, control), args, "slim demo"
        )
        if finished is None or finished.reason == "interrupted":
            if Path(f"{args.out}.run/last").exists():
                _say([f"The demo is saved and goes on where it stopped: {_again(args.out)}"])
            return code
    else:
        _say(
            [
                f"{args.out} is there from an earlier demo: this is what became of it.",
                f"To train it anew: {_again(args.out)} --force",
            ]
        )
    _show(args.out, fresh=state != "finished")
    return 0


def state_of(out: str) -> str:
    """What is there already: none, stopped, finished, or something foreign that must not be lost."""
    from slim.run_directory import RESULT, directory_of

    folder = directory_of(out)
    begun = (folder / "last").exists()
    if not Path(out).exists() and not begun:
        return "none"
    if _settings(out) is None:
        return "foreign"
    if Path(out).exists() and (folder / RESULT).exists():
        return "finished"
    return "stopped" if begun else "foreign"


def _settings(out: str) -> dict[str, object] | None:
    """settings.json of the run of `out`, None where it is not a demo's."""
    from slim.run_directory import read_settings

    try:
        settings = read_settings(out)
        train = settings["train"]
        if Path(str(settings["data"])).name == "stories.txt":
            assert isinstance(train, dict)
            return settings if list(train["sample_prompts"]) == [PROMPT] else None
    except (SlimError, KeyError, TypeError, AssertionError):
        pass
    return None


def _training(
    args: argparse.Namespace, state: str, minutes: float, threads: int | None, control: RunControl
) -> Iterator[Event]:
    """The run, in the engine thread."""
    from slim.run import resume, start

    if state == "stopped":
        yield from resume(args.out, control, threads)
        return
    left = 60.0 * minutes - (time.monotonic() - BEGAN) - CLOSING_SECONDS
    request = demo_request(args.out, left, threads, args.force)
    yield from start(request, control)


# ---- what is said --------------------------------------------------------------------------------


def _welcome(args: argparse.Namespace, state: str, minutes: float) -> list[str]:
    if state == "stopped":
        return [
            f"Going on with the demo that was stopped ({_again(args.out)} --force starts anew)."
        ]
    return [
        "A model that knows nothing reads 1,560 short stories and guesses every next",
        "word. The loss says how wrong it guesses. Watch it fall, and watch the sample",
        "become words, then sentences.",
        f"All of it takes at most {minutes:g} minute{'' if minutes == 1 else 's'}.",
    ]


def _again(out: str) -> str:
    return "slim demo" if out == OUT else f"slim demo --out {shlex.quote(out)}"


def _say(lines: list[str]) -> None:
    for line in lines:
        say(line)


def _show(out: str, fresh: bool) -> None:
    """The answers on the way, three stories, and what to try next: on stdout, for it is the result."""
    from rich.console import Console

    console = Console(highlight=False)
    width = min(console.width, WIDTH)
    _heading(console, f"The same beginning, on the way from nothing: “{PROMPT} …”")
    for label, text in answers(out):
        _answer(console, label, text, width)
    _heading(console, "Three stories")
    _stories(console, out, width, None if not fresh else STORY.seed)
    _heading(console, "Try next")
    for command, what in next_commands(out):
        console.print(f"  {command}", markup=False, soft_wrap=True, style="bold")
        console.print(f"      {what}", markup=False, soft_wrap=True, style="dim")


def _heading(console: Console, text: str) -> None:
    console.print()
    console.print(text, markup=False, style="bold underline")
    console.print()


def answers(out: str) -> list[tuple[str, str]]:
    """What the model made of PROMPT after each of SHOWN_SHARES of the run: its share in words, and the text."""
    settings = _settings(out) or {}
    total = settings.get("total_steps")
    found: dict[int, str] = {}
    try:
        lines = Path(f"{out}.run/samples.jsonl").read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        lines = []
    for line in lines:
        try:
            record = json.loads(line)
            if record["prompt"] == PROMPT:
                found[int(record["step"])] = str(record["text"])
        except (ValueError, KeyError, TypeError, RecursionError):
            continue
    if not found or not isinstance(total, int) or total < 1:
        return []
    chosen = [min(found, key=lambda step: abs(step - share * total)) for share in SHOWN_SHARES]
    return [(f"{100 * step / total:.0f} %", found[step]) for step in dict.fromkeys(chosen)]


def _answer(console: Console, label: str, text: str, width: int) -> None:
    from rich.text import Text

    from slim.safe_text import safe_text

    body = Text(safe_text(PROMPT), style="bold")
    body.append(safe_text(" ".join(text.split("\n"))), style="not bold")
    lines = list(body.wrap(console, max(width - 9, 20)))
    for number, line in enumerate(lines[:ANSWER_LINES]):
        left = Text(f"{label:>6}   " if number == 0 else " " * 9, style="dim")
        if number == ANSWER_LINES - 1 and len(lines) > ANSWER_LINES:
            line.append(" …")
        line.rstrip()
        console.print(left + line, soft_wrap=True)
    console.print()


def _stories(console: Console, out: str, width: int, seed: int | None) -> None:
    """Three stories, written as they come."""
    from slim.cli.stage import show_stages
    from slim.cli.wrapped import WrappedText
    from slim.compute import stream
    from slim.events import TokenGenerated
    from slim.safe_text import safe_text

    def write(text: str) -> None:
        console.file.write(text)
        console.file.flush()

    page = WrappedText(write, width, indent=2)
    for event in show_stages(stream(_telling(out, seed))):
        if isinstance(event, str):
            page.push(safe_text(event))
        elif isinstance(event, TokenGenerated):
            page.push(safe_text(event.text))
        else:
            page.close()
            write("\n")


def _telling(
    out: str, seed: int | None
) -> Iterator[str | TokenGenerated | GenerateFinished | Progress | Note]:
    """Each story as its beginning, its tokens and its end, in the engine thread."""
    import dataclasses

    from slim.generate import generate
    from slim.model_file import loading_model

    model, tokenizer, _ = yield from loading_model(out)
    config = dataclasses.replace(STORY, seed=seed)
    for prompt in STORIES_FROM:
        yield prompt
        yield from generate(model, tokenizer, prompt, config)


def next_commands(out: str) -> list[tuple[str, str]]:
    """Commands that can be typed now, and what each does."""
    from slim.demo_text import SCRIPT, demo_text

    script = demo_text(SCRIPT)
    near = Path("demo") / SCRIPT
    if near.is_file() and near.resolve() == script.resolve():
        script = near
    model = shlex.quote(out)
    return [
        (f'slim generate {model} "The old owl"', "your own beginning"),
        (f"slim generate {model} --confidence color", "how expected each word was to the model"),
        (
            f"slim finetune {model} {shlex.quote(str(script))} 20 script.bin",
            "teach it a film script",
        ),
        ("slim pretrain your-text.txt 10 mine.bin", "a model from a text of yours"),
        ("slim --help", "everything else"),
    ]
