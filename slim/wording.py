"""How numbers and the events of a run are said in words, by every display."""

from __future__ import annotations

import math
import shlex

from slim.events import EvalFinished, Progress, RunStarted, TrainFinished

COMPILING = "compiling "  # is how such stages begin
FIRST_RUN = " (first run only)"


def introduction(event: RunStarted) -> list[str]:
    """What is about to be trained, in two lines, three when resumed."""
    threads = counted(event.threads, "thread")
    steps = counted(event.total_steps, "step")
    lines = [
        f"{event.n_parameters / 1e6:.2f} M parameters, about {mega(event.memory_bytes)} of memory, "
        f"{threads}; {steps} of {event.tokens_per_step:,} tokens",
        f"{event.train_tokens:,} tokens to train on, {event.validation_tokens:,} to validate, "
        f"{event.bytes_per_token:.2f} bytes each",
    ]
    if event.resumed:
        lines.append(f"resumed after step {event.step:,}")
    return lines


def stage_line(event: Progress) -> str:
    """A stage and how far it is."""
    if event.stage.startswith(COMPILING):
        return f"{event.stage} {event.done}/{event.total}{FIRST_RUN}"
    share = 100 * event.done // event.total if event.total else 0
    return f"{event.stage} {share} %"


def evaluation_line(event: EvalFinished) -> str:
    """Validation loss and bits per byte."""
    best = "  (best so far)" if event.best else ""
    return (
        f"validation after step {event.step}: loss {event.loss:.3f}, "
        f"{event.bits_per_byte:.3f} bits/byte{best}"
    )


def duration(seconds: float) -> str:
    """`4:05`, or `1:02:03` from an hour on; `-` where it is not known."""
    if not math.isfinite(seconds) or seconds < 0:
        return "-"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """`1 step`, `2,000 steps`; `plural` where it is not the noun with an s."""
    return f"1 {noun}" if number == 1 else f"{number:,} {plural or noun + 's'}"


def mega(size: float) -> str:
    """A size in megabytes, in gigabytes from one on, in kilobytes below one."""
    if size < 1e6:
        return f"{size / 1e3:.0f} kB"
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"


def one_line(text: str, limit: int = 300) -> str:
    """A text without line breaks, cut at `limit` characters."""
    flat = " ".join(text.split())
    return flat if len(flat) <= limit else flat[: limit - 1] + "…"


def farewell(finished: TrainFinished, out: str) -> list[str]:
    """What a run leaves, and the next command."""
    name = shlex.quote(out)
    best = ""
    if finished.best_step is not None:
        best = f": {finished.best_bits_per_byte:.3f} bits/byte at step {finished.best_step:,}"
    if finished.reason != "interrupted":
        time = duration(finished.elapsed_seconds)
        early = ", as the held-out text gained no more" if finished.reason == "early_stop" else ""
        return [
            f"done after {counted(finished.step, 'step')} in {time}{early}",
            f"{out} holds the best model{best}",
            f"try: slim generate {name}",
        ]
    if finished.step == 0:
        return ["stopped before the first step: no model was made"]
    return [
        f"stopped after step {finished.step:,}, and saved in {out}.run/",
        f"{out} holds the best model so far{best}" if best else f"{out} holds the model as it is",
        f"go on with: slim resume {name}",
    ]
