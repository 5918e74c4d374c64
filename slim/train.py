"""The training loop: one event per update, nothing else.

    for each step:  gradients of the loss over `accumulate` batches  ->  norm  ->  clip, AdamW  ->  StepFinished

A batch is a function of the seed and its number, the learning rate one of the step, so what has to be kept to go on is
in `TrainingState` and in the arrays of parameters and moments.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass

from slim.config import TrainConfig
from slim.data import TokenData, batch, steps_per_epoch
from slim.events import StepFinished, StepSkipped
from slim.model import Model, Workspace
from slim.optim import AdamW, learning_rate
from slim.parameters import Parameters

SMOOTHING = 0.98  # of the smoothed loss: an average over about the last 50 steps
SPIKE_DEVIATIONS = 6.0  # a loss this many standard deviations above the smoothed one
SPIKE_AFTER = 100  # steps: before, the loss falls too fast for a mean
BAD_STEPS = 3  # in a row that are not finite
SPIKES = 2  # in a row
_SPEED_STEPS = 20  # that tokens per second and the remaining time are averaged over


class UnstableError(Exception):
    """Training went wrong in a way that more steps will not mend; the message says how."""


@dataclass(slots=True)
class TrainingState:
    """Where a run is, but for the arrays: numbers that JSON can hold."""

    step: int = 0  # updates done, skipped ones too
    first_batch: int = 0  # added to batch numbers: batches left out after a rollback
    rate_factor: float = 1.0  # on the learning rate, halved by a rollback
    smoothed_loss: float | None = None
    loss_variance: float = 0.0
    bad_steps: int = 0
    spikes: int = 0
    updates: int = 0  # of AdamW, for its bias correction
    tokens_seen: int = 0
    elapsed_seconds: float = 0.0

    def as_dict(self) -> dict[str, object]:
        return dataclasses.asdict(self)


def train(
    model: Model,
    optimizer: AdamW,
    data: TokenData,
    config: TrainConfig,
    state: TrainingState,
    total_steps: int,
    workspace: Workspace,
) -> Iterator[StepFinished | StepSkipped]:
    """Make updates from `state.step` to `total_steps`; `state` is up to date at every event.

    An update whose loss or gradient is not finite is skipped. Raises UnstableError after BAD_STEPS of them in a row, or
    SPIKES losses in a row far above the smoothed one.
    """
    B, T, accumulate = workspace.B, workspace.T, config.accumulate
    gradients = Parameters(model.config)
    optimizer.step_count = state.updates
    tokens_per_step = B * T * accumulate
    epoch_steps = steps_per_epoch(data.train.size, B, T) / accumulate
    recent: list[float] = []
    while state.step < total_steps:
        started = time.perf_counter()
        loss = 0.0
        for part in range(accumulate):
            number = state.first_batch + state.step * accumulate + part
            tokens, targets = batch(data, config.seed, number, B, T)
            loss += (
                model.loss_and_gradients(workspace, tokens, targets, gradients, 1.0 / accumulate)
                / accumulate
            )
        norm = optimizer.gradient_norm(gradients)
        state.step += 1
        state.tokens_seen += tokens_per_step
        if not (math.isfinite(loss) and math.isfinite(norm)):
            gradients.flat.fill(0.0)
            state.elapsed_seconds += time.perf_counter() - started
            state.bad_steps += 1
            what = "loss" if not math.isfinite(loss) else "gradient"
            yield StepSkipped(state.step, f"its {what} is not finite")
            if state.bad_steps >= BAD_STEPS:
                raise UnstableError(
                    f"{BAD_STEPS} steps in a row had a loss or gradient that is not finite"
                )
            continue
        rate = learning_rate(config, state.step, total_steps) * state.rate_factor
        optimizer.step(gradients, rate, norm)
        model.pack()
        state.updates = optimizer.step_count
        state.bad_steps = 0
        spiked = _follow(state, loss)
        seconds = time.perf_counter() - started
        state.elapsed_seconds += seconds
        recent = [*recent[-_SPEED_STEPS + 1 :], seconds]
        mean = sum(recent) / len(recent)
        assert state.smoothed_loss is not None
        yield StepFinished(
            step=state.step,
            loss=loss,
            smoothed_loss=state.smoothed_loss,
            grad_norm=norm,
            learning_rate=rate,
            tokens_seen=state.tokens_seen,
            epoch=state.step / epoch_steps,
            tokens_per_second=tokens_per_step / mean,
            elapsed_seconds=state.elapsed_seconds,
            eta_seconds=mean * (total_steps - state.step),
        )
        state.spikes = state.spikes + 1 if spiked else 0
        if state.spikes >= SPIKES:
            raise UnstableError(
                f"{SPIKES} losses in a row lay more than {SPIKE_DEVIATIONS:g} standard deviations above the others"
            )


def _follow(state: TrainingState, loss: float) -> bool:
    """Take a loss into the smoothed one and its variance; whether it lies far above them."""
    if state.smoothed_loss is None:
        state.smoothed_loss = loss
        return False
    # Averages over all steps at first: the first loss is the largest and should not weigh for fifty steps.
    keep = min(SMOOTHING, 1.0 - 1.0 / (state.updates + 1))
    away = loss - state.smoothed_loss
    spiked = (
        state.updates > SPIKE_AFTER
        and away > SPIKE_DEVIATIONS * math.sqrt(state.loss_variance) > 0.0
    )
    state.smoothed_loss += (1.0 - keep) * away
    state.loss_variance = keep * (state.loss_variance + (1.0 - keep) * away * away)
    return spiked
