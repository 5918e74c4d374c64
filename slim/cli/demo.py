"""`slim demo`: a first model from the stories that ship with SLiM, and what it can do at the end.

Sizes, vocabulary and time were chosen by reading: see "What the demo trains" in the README.
"""

from __future__ import annotations

import argparse
import os
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from slim.cli.training import Request, drive_request, positive_number
from slim.demo_text import STORIES, demo_text
from slim.errors import UsageError
from slim.settings import Settings

if TYPE_CHECKING:
    from slim.events import Event, SampleFinished

MINUTES = 3.5  # of training, first compilation included; half a minute is left for reading and writing
OUT = "slim-demo.bin"
PROMPT = "Once upon a time"
# What the model is, and how it learns, beside the defaults.
SETTINGS: dict[str, object] = {
    "sample_prompts": (PROMPT,),
    "sample_tokens": 70,
}
EPOCHS = 1000.0  # more than the time allows
STORY_PROMPTS = ("Once upon a time", "One day", "There was a")
STORY_TOKENS = 180
STORY_SEED = 1
WIDTH = 76


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Describe the command to argparse."""
    parser = subparsers.add_parser(
        "demo",
        help="train a first model on the stories that ship with SLiM, and read what it writes",
        description="Train a model on 1,560 short stories while you watch, then read what it wrote before, "
        f"a quarter through and after training, and three new stories. Takes about {MINUTES:g} minutes.",
    )
    parser.add_argument(
        "--minutes", metavar="M", default=f"{MINUTES:g}", help=f"of training (default {MINUTES:g})"
    )
    parser.add_argument("--out", metavar="FILE", default=OUT, help=f"the model file (default {OUT})")
    parser.add_argument("--force", action="store_true", help="train again, although FILE exists")
    parser.set_defaults(run=run, json=False, quiet=False, verbose=False, resume=False)


def run(args: argparse.Namespace) -> int:
    """Train, then show."""
    minutes = positive_number("--minutes", args.minutes)
    if Path(args.out).exists() and not args.force:
        raise UsageError(
            f"{args.out}: is there already: read from it with `slim generate {args.out}`, "
            f"train again with `slim demo --force`, or choose another name with --out"
        )
    request = Request(
        command="pretrain",
        data=str(demo_text(STORIES)),
        epochs=EPOCHS,
        out=args.out,
        settings=Settings({**SETTINGS, "minutes": minutes}),
        force=True,  # what an interrupted demo left is not worth keeping
    )
    samples: list[SampleFinished] = []
    steps = {"total": 0}

    def observe(event: Event) -> None:
        from slim.events import RunStarted, SampleFinished

        if isinstance(event, SampleFinished):
            samples.append(event)
        elif isinstance(event, RunStarted):
            steps["total"] = event.total_steps

    code, finished = drive_request(args, request, "slim demo: learning to tell stories", observe)
    if finished is None or finished.reason == "interrupted":
        sys.stderr.write("stopped; `slim demo` begins again from the start\n")
        return code
    _heading("The same beginning, as it went on")
    for share, name in ((0.0, "before training"), (0.25, "a quarter through"), (1.0, "at the end")):
        sample = min(samples, key=lambda one: abs(one.step - share * steps["total"]))
        _say(f"{name} (step {sample.step}):")
        _text(sample.prompt + sample.text)
    _heading("Three stories")
    for text in _stories(args.out):
        _text(text)
    _heading("What to try next")
    for line in _next(args.out):
        _say("  " + line)
    return code


def _stories(path: str) -> Iterator[str]:
    """New stories from the finished model."""
    from slim.compute import stream
    from slim.config import GenerateConfig
    from slim.events import GenerateFinished

    def events() -> Iterator[object]:
        from slim.generate import generate
        from slim.model_file import load_model

        model, tokenizer, _ = load_model(path)
        for number, prompt in enumerate(STORY_PROMPTS):
            config = GenerateConfig(max_tokens=STORY_TOKENS, seed=STORY_SEED + number)
            yield from generate(model, tokenizer, prompt, config)

    prompts = iter(STORY_PROMPTS)
    for event in stream(events()):
        if isinstance(event, GenerateFinished):
            unfinished = "" if event.finish_reason == "eos" else " …"
            yield next(prompts) + event.text.rstrip() + unfinished


def _next(out: str) -> list[str]:
    script = os.path.relpath(demo_text("lighthouse-script.txt"))
    if len(script) > 40:
        script = "YOUR_TEXT.txt"
    return [
        f'slim generate {out} "The fox" 150',
        f'slim generate {out} "Once" --confidence color',
        f"slim finetune {out} {script} 20 script.bin",
        "slim pretrain YOUR_CORPUS.txt 3 base.bin",
        f"slim info {out}",
    ]


def _heading(text: str) -> None:
    rule = "─" * (WIDTH - len(text) - 1)
    if "utf" not in (sys.stdout.encoding or "").lower():
        rule = "-" * len(rule)
    _say(f"\n{text} {rule}\n")


def _text(text: str) -> None:
    """A text as indented paragraphs, and a blank line."""
    from slim.safe_text import safe_text

    for paragraph in safe_text(text).splitlines():
        _say(textwrap.fill(paragraph, WIDTH, initial_indent="  ", subsequent_indent="  "))
    _say("")


def _say(line: str) -> None:
    sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
