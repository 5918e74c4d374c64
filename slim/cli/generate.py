"""`slim generate MODEL [PROMPT] [N]`: prompt and text on stdout, statistics on stderr."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from slim.cli.lines import say, writer_of
from slim.cli.sampler import DEFAULTS, add_sampler_options, generate_config
from slim.cli.shading_options import add_options
from slim.config import GenerateConfig
from slim.errors import UsageError
from slim.events import GenerateFinished, TokenGenerated
from slim.wording import counted

if TYPE_CHECKING:
    from slim.cli.shading import Shading
    from slim.events import Note, Progress

MOST_SAMPLES = 256
MOST_ALTERNATIVES = 100
FINISH_FIELDS = (
    *("finish_reason", "tokens", "tokens_per_second", "typical_p", "perplexity", "seed"),
    *("kept_characters", "own_share"),
)
LONGEST_PROMPT = 2**23  # bytes of stdin: twice what the longest context holds in the longest tokens

EXAMPLES = """\
examples:
  slim generate base.bin "Once upon a time" 100
  slim generate base.bin "The fox" --temp 0.6 --seed 7 --stop "\\n"
  slim generate base.bin "The sea" 100 --confidence color
  echo "Once there was" | slim generate base.bin - 50 --json
"""


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Describe the command to argparse."""
    parser = subparsers.add_parser(
        "generate",
        help="continue a prompt",
        description="Continue PROMPT by at most N tokens. The prompt and the text go to stdout, "
        "statistics to stderr.",
        epilog=EXAMPLES,
    )
    parser.add_argument("model", metavar="MODEL", help="a model file")
    parser.add_argument(
        "prompt",
        metavar="PROMPT",
        nargs="?",
        default="",
        help="the beginning of the text; - reads it from stdin (without its last line break); "
        "nothing: the model begins a text of its own",
    )
    parser.add_argument(
        "n", metavar="N", nargs="?", help=f"tokens at most (default {DEFAULTS.max_tokens})"
    )
    sampler = add_sampler_options(parser)
    sampler.add_argument(
        "--samples",
        type=int,
        metavar="K",
        help="write K texts, the first as with --seed, the next with the seed after it: together "
        "they take a fraction of the time that they take one by one",
    )
    output = parser.add_argument_group("output")
    output.add_argument(
        "--json", action="store_true", help="one JSON object per token and a last one"
    )
    output.add_argument(
        "--raw", action="store_true", help="piped text as the model wrote it, control bytes too"
    )
    output.add_argument(
        "--alternatives",
        type=int,
        metavar="K",
        default=5,
        help="with --json: the K most probable tokens at every place (default 5)",
    )
    add_options(output, style="off")
    output.add_argument("-q", "--quiet", action="store_true", help="the text only, and errors")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Generate; the exit code is 130 if Ctrl-C ended the text."""
    config = _config(args)
    prompt = _prompt(args.prompt)

    from slim.cli.stage import show_stages
    from slim.cli.stopping import StopRequest, leave
    from slim.compute import stream

    writer = _Turns(args, prompt, config)

    def on_first(number: int) -> None:
        if not writer.begun:  # nothing is lost, and a kernel that is being compiled cannot be asked
            leave(number)

    stop = StopRequest(on_first, ends_program=True)
    with stop:
        for event in show_stages(stream(_events(args, prompt, config, stop.requested)), args.quiet):
            if isinstance(event, (TokenGenerated, GenerateFinished)):
                writer.push(event)
    return stop.exit_code if writer.interrupted else 0


def _events(
    args: argparse.Namespace,
    prompt: bytes,
    config: GenerateConfig,
    should_stop: Callable[[], bool],
) -> Iterator[TokenGenerated | GenerateFinished | Note | Progress]:
    """The work, in the engine thread."""
    from slim.generate import generate, generate_together
    from slim.model_file import loading_model

    model, tokenizer, metadata = yield from loading_model(args.model, args.weights)
    calibration = metadata.get("calibration")
    known = calibration if isinstance(calibration, dict) else None
    rest = (known, should_stop, args.alternatives if args.json else 0)
    if args.samples is None:
        yield from generate(model, tokenizer, prompt, config, *rest)
    else:
        yield from generate_together(model, tokenizer, prompt, config, args.samples, *rest)


def statistics(event: GenerateFinished) -> str:
    """How fast, how sure and why it ended, in a line."""
    from slim.generate import in_words

    return (
        f"{counted(event.tokens, 'token')}, {event.tokens_per_second:,.0f} tokens/s, typical p {event.typical_p:.2f}, "
        f"perplexity {event.perplexity:.4g}, seed {event.seed}; {in_words(event)}"
    )


def _config(args: argparse.Namespace) -> GenerateConfig:
    if args.samples is not None and not 1 <= args.samples <= MOST_SAMPLES:
        raise UsageError(f"--samples must be from 1 to {MOST_SAMPLES}, but is {args.samples}")
    if not 0 <= args.alternatives <= MOST_ALTERNATIVES:
        raise UsageError(
            f"--alternatives must be from 0 to {MOST_ALTERNATIVES}, but is {args.alternatives}"
        )
    return generate_config(args, _count(args.n))


def _count(text: str | None) -> int:
    if text is None:
        return DEFAULTS.max_tokens
    try:
        count = int(text)
    except ValueError:
        raise UsageError(
            f"N must be a whole number of tokens, but is {text!r} "
            "(put a prompt of several words in quotes)"
        ) from None
    if count < 1:
        raise UsageError(f"N must be at least 1, but is {count}")
    return count


def _prompt(argument: str) -> bytes:
    """The prompt's bytes, whatever they are."""
    if argument != "-":
        return os.fsencode(argument)
    if sys.stdin is None:
        raise UsageError("the prompt should come from stdin, but that is closed")
    if sys.stdin.isatty():
        say("slim: type the prompt; Ctrl-D ends it")
    text = sys.stdin.buffer.read(LONGEST_PROMPT + 1)
    if len(text) > LONGEST_PROMPT:
        raise UsageError(f"the prompt is longer than {LONGEST_PROMPT:,} bytes: shorten it")
    return text.removesuffix(b"\n").removesuffix(b"\r")


class _Turns:
    """Events to writers, a text at a time: of several, the first is shown as it grows, the others wait their turn."""

    def __init__(self, args: argparse.Namespace, prompt: bytes, config: GenerateConfig) -> None:
        self._samples: int | None = args.samples
        count = args.samples or 1
        self._writers = [_writer(args, prompt, config, legend=i == 0) for i in range(count)]
        self._waiting: list[list[TokenGenerated | GenerateFinished]] = [[] for _ in range(count)]
        self._turn = 0
        self._tokens = 0
        self._began = 0.0
        self._quiet: bool = args.quiet
        self.interrupted = False

    @property
    def begun(self) -> bool:
        """Whether a text was begun: from then on it is worth an orderly end."""
        return self._writers[0].begun

    def push(self, event: TokenGenerated | GenerateFinished) -> None:
        """Show what can be shown."""
        self._tokens += isinstance(event, TokenGenerated)
        self._began = self._began or time.monotonic()
        self._waiting[max(event.sample, 0)].append(event)
        while self._turn < len(self._waiting) and self._waiting[self._turn]:
            self._show(self._waiting[self._turn].pop(0))

    def _show(self, event: TokenGenerated | GenerateFinished) -> None:
        writer = self._writers[self._turn]
        if isinstance(event, TokenGenerated):
            writer.token(event)
            return
        writer.finish(event)
        self.interrupted |= event.finish_reason == "interrupted"
        self._tell(statistics(event))
        self._turn += 1
        if self._turn < len(self._writers):
            writer.between()
        elif self._samples is not None:
            speed = self._tokens / max(time.monotonic() - self._began, 1e-9)
            self._tell(
                f"{counted(self._samples, 'text')}, {counted(self._tokens, 'token')}, {speed:,.0f} tokens/s together"
            )

    def _tell(self, line: str) -> None:
        if not self._quiet:
            say(line)


class JsonWriter:
    """One JSON object per line: ASCII, so nothing in it can move a terminal's cursor."""

    begun = False

    def between(self) -> None:
        """Each line says which text it belongs to."""

    def token(self, event: TokenGenerated) -> None:
        """A token with everything that is known of it."""
        self.begun = True
        write_record({"type": "token", **_which(event), **token_record(event)})

    def finish(self, event: GenerateFinished) -> None:
        """The last line."""
        write_record({"type": "finish", **_which(event), **finish_record(event)})


def write_record(record: dict[str, object]) -> None:
    """A JSON object as a line on stdout."""
    sys.stdout.write(json.dumps(record, allow_nan=False) + "\n")
    sys.stdout.flush()


def token_record(event: TokenGenerated) -> dict[str, object]:
    """A token as a JSON object: model p, log p, entropy, rank, margin, p sampled, and the most probable ones."""
    names = ("index", "token_id", "text", "logprob", "p", "p_sampled", "entropy", "rank", "margin")
    record = {name: getattr(event, name) for name in names}
    others = [{"token_id": a.token_id, "text": a.text, "p": a.p} for a in event.alternatives]
    return {**record, "alternatives": others}


def finish_record(event: GenerateFinished) -> dict[str, object]:
    """The end of a text as a JSON object."""
    return {name: getattr(event, name) for name in FINISH_FIELDS}


def _which(event: TokenGenerated | GenerateFinished) -> dict[str, int]:
    """The text that it belongs to, where there are several."""
    return {"sample": event.sample} if event.sample >= 0 else {}


class TextWriter:
    """The prompt and the text, as they come.

    A stop rule may cut off the end of a text that is already on the screen: there, the statistics
    say so. Where stdout is not a terminal, the tokens that it may cut are held back, so that what
    arrives is the result.
    """

    def __init__(
        self,
        prompt: str,
        clean: Callable[[str], str],
        shading: Shading,
        held_tokens: int,
        last_line_break: bool,
    ) -> None:
        self._put, self._flush = writer_of(sys.stdout)
        self._prompt: str | None = prompt
        self._clean = clean
        self._shading = shading
        self._held_tokens = held_tokens
        self._held: deque[tuple[str, float]] = deque()
        self._last_line_break = last_line_break
        self._written = 0  # characters of the text, without prompt and marks

    @property
    def begun(self) -> bool:
        """Whether a text was begun: from then on it is worth an orderly end."""
        return self._prompt is None

    def token(self, event: TokenGenerated) -> None:
        """Its text, as far as no stop rule can take it back."""
        self._begin()
        self._held.append((event.text, event.p))
        while len(self._held) > self._held_tokens:
            self._write(*self._held.popleft())
        sys.stdout.flush()

    def between(self) -> None:
        """An empty line before the next text."""
        sys.stdout.write("\n")

    def finish(self, event: GenerateFinished) -> None:
        """What was held back, as far as it is kept."""
        self._begin()
        for text, p in self._held:
            self._write(text[: max(0, event.kept_characters - self._written)], p)
        self._put(self._shading.close())
        self._flush()
        sys.stdout.write("\n" if self._last_line_break else "")
        sys.stdout.flush()

    def _begin(self) -> None:
        """The prompt, when it is sure that there will be a text."""
        if self._prompt is not None:
            self._put(self._clean(self._prompt))
            self._prompt = None

    def _write(self, text: str, p: float) -> None:
        self._written += len(text)
        self._put(self._shading.mark(self._clean(text), p))


def _writer(
    args: argparse.Namespace, prompt: bytes, config: GenerateConfig, legend: bool
) -> JsonWriter | TextWriter:
    if args.json:
        return JsonWriter()
    from slim.cli.shading import shading_of
    from slim.confidence import WINDOW
    from slim.safe_text import safe_text

    with contextlib.suppress(
        AttributeError
    ):  # a program may have put something simpler in its place
        sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]
    terminal = sys.stdout.isatty()
    raw = args.raw and not terminal
    shading = shading_of(args, os.environ)
    if legend and not args.quiet and (words := shading.legend(stops=config.stop_confidence != "off")):
        say(words, marked=True)
    return TextWriter(
        prompt.decode("utf-8", errors="replace"),
        clean=str if raw else safe_text,
        shading=shading,
        held_tokens=0 if terminal or config.stop_confidence == "off" else WINDOW,
        last_line_break=not raw,
    )
