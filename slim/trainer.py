"""The training loop: one event per update, nothing else.

    for each step:  gradients of the loss over `accumulate` batches  ->  norm  ->  clip, update  ->  StepFinished

A batch is a function of the seed and its number, the learning rate one of the step. So what has to be kept to go on is
`TrainingState`, the weights and the optimizer's moments.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from slim.config import TrainConfig
from slim.data import TokenData, batch, steps_per_epoch
from slim.events import StepFinished, StepSkipped
from slim.model import Model
from slim.optim import learning_rate, make_optimizer
from slim.parameters import Parameters

SMOOTHING = 0.98  # of the smoothed loss: an average over about the last 50 steps
SPIKE_DEVIATIONS = 6.0  # above the smoothed loss
SPIKE_NATS = 0.6  # at least: once a small text is known by heart, its loss hardly deviates at all
SPIKE_AFTER = 100  # updates: before, the loss falls too fast for a mean
BAD_STEPS = 3  # in a row that are not finite
SPIKES = 2  # in a row
SPEED_STEPS = 20  # that the speed is averaged over


class UnstableError(Exception):
    """Training went wrong in a way that more steps do not mend; the message says how."""


@dataclass(slots=True)
class TrainingState:
    """Where a run is, apart from the arrays: numbers that JSON can hold."""

    step: int = 0  # steps done, skipped ones too
    updates: int = 0  # of the optimizer
    first_batch: int = 0  # batches left out after a rollback
    rate_factor: float = 1.0  # on the learning rate, halved by a rollback
    smoothed_loss: float | None = None
    loss_variance: float = 0.0
    bad_steps: int = 0  # in a row
    spikes: int = 0  # in a row
    tokens_seen: int = 0
    elapsed_seconds: float = 0.0  # of all sessions

    def as_dict(self) -> dict[str, object]:
        return dataclasses.asdict(self)


class Trainer:
    """A model in training: all that updates read and change, allocated once."""

    def __init__(self, model: Model, data: TokenData, config: TrainConfig, B: int, T: int) -> None:
        self.model = model
        self.data = data
        self.config = config
        self.optimizer = make_optimizer(model.parameters, config, model.dtype)
        self.gradients = Parameters(model.config)
        self.workspace = model.workspace(B, T, train=True)
        self.state = TrainingState()
        self.start_clock()

    @property
    def tokens_per_step(self) -> int:
        return self.workspace.B * self.workspace.T * self.config.accumulate

    @property
    def steps_per_epoch(self) -> float:
        w = self.workspace
        return steps_per_epoch(self.data.train.size, w.B, w.T) / self.config.accumulate

    def start_clock(self, began: float | None = None) -> None:
        """Count `elapsed_seconds` on from now, or from a time of the monotonic clock."""
        now = time.monotonic() if began is None else began
        self._zero = now - self.state.elapsed_seconds

    def read_clock(self) -> float:
        """Seconds of the whole run, those before a resume too."""
        self.state.elapsed_seconds = time.monotonic() - self._zero
        return self.state.elapsed_seconds

    def compute_gradients(self, step: int) -> tuple[float, float]:
        """Loss (nats per token) and gradient norm of the batches of a step, counted from 0."""
        w, accumulate = self.workspace, self.config.accumulate
        loss = 0.0
        for part in range(accumulate):
            number = self.state.first_batch + step * accumulate + part
            tokens, targets = batch(self.data, self.config.seed, number, w.B, w.T)
            share = 1.0 / accumulate
            loss += share * self.model.loss_and_gradients(w, tokens, targets, self.gradients, share)
        return loss, self.optimizer.gradient_norm(self.gradients)

    def apply_gradients(self, rate: float, norm: float) -> None:
        """Update the weights and their packed copies; gradients become zero."""
        self.optimizer.step(self.gradients, rate, norm)
        self.model.pack()

    def rehearse(self) -> float:
        """Seconds of a step that changes nothing: only before the first one, as it clears the moments."""
        began = time.perf_counter()
        self.compute_gradients(0)
        self.apply_gradients(0.0, 1.0)
        seconds = time.perf_counter() - began
        self.optimizer.restart()
        return seconds


def train(trainer: Trainer, total_steps: int) -> Iterator[StepFinished | StepSkipped]:
    """Make steps from `trainer.state.step` to `total_steps`; the state is up to date at every event.

    A step whose loss or gradient is not finite is skipped. Raises UnstableError after BAD_STEPS of them in a row, or
    SPIKES losses in a row far above the smoothed one: the weights should go back to an earlier state then.
    """
    state, config = trainer.state, trainer.config
    steps_per_epoch = trainer.steps_per_epoch
    trainer.optimizer.step_count = state.updates
    recent: deque[float] = deque(maxlen=SPEED_STEPS)
    began, first_step, in_steps = time.monotonic(), state.step, 0.0
    while state.step < total_steps:
        step_began = time.monotonic()
        loss, norm = trainer.compute_gradients(state.step)
        state.step += 1
        state.tokens_seen += trainer.tokens_per_step
        if not (math.isfinite(loss) and math.isfinite(norm)):
            trainer.gradients.flat.fill(0.0)
            state.bad_steps += 1
            trainer.read_clock()
            what = "gradient" if math.isfinite(loss) else "loss"
            yield StepSkipped(state.step, f"the {what} is not finite")
            if state.bad_steps >= BAD_STEPS:
                raise UnstableError(f"{BAD_STEPS} steps in a row had no finite loss and gradient")
            continue
        rate = learning_rate(config, state.step, total_steps) * state.rate_factor
        trainer.apply_gradients(rate, norm)
        state.updates = trainer.optimizer.step_count
        state.bad_steps = 0
        state.spikes = state.spikes + 1 if _is_spike(state, loss) else 0
        if state.spikes == 0 or state.smoothed_loss is None:
            _follow(state, loss)
        seconds = time.monotonic() - step_began
        recent.append(seconds)
        in_steps += seconds
        per_step = sum(recent) / len(recent)
        # What lies between steps (validation, samples, saves) will go on to take its share.
        between = (time.monotonic() - began - in_steps) / (state.step - first_step)
        assert state.smoothed_loss is not None
        yield StepFinished(
            step=state.step,
            loss=loss,
            smoothed_loss=state.smoothed_loss,
            grad_norm=norm,
            learning_rate=rate,
            tokens_seen=state.tokens_seen,
            epoch=state.step / steps_per_epoch,
            tokens_per_second=trainer.tokens_per_step / per_step,
            elapsed_seconds=trainer.read_clock(),
            eta_seconds=(per_step + between) * (total_steps - state.step),
        )
        if state.spikes >= SPIKES:
            raise UnstableError(
                f"{SPIKES} losses in a row lay more than {SPIKE_DEVIATIONS:g} standard deviations "
                f"above the others"
            )


def _is_spike(state: TrainingState, loss: float) -> bool:
    """Whether a loss lies far above the smoothed one."""
    if state.smoothed_loss is None or state.updates <= SPIKE_AFTER:
        return False
    far = max(SPIKE_DEVIATIONS * math.sqrt(state.loss_variance), SPIKE_NATS)
    return loss - state.smoothed_loss > far


def _follow(state: TrainingState, loss: float) -> None:
    """Take a loss into the smoothed one and its variance."""
    if state.smoothed_loss is None:
        state.smoothed_loss = loss
        return
    # A plain average at first: the first loss is the largest and should not weigh for fifty steps.
    keep = min(SMOOTHING, 1.0 - 1.0 / max(state.updates, 2))
    away = loss - state.smoothed_loss
    state.smoothed_loss += (1.0 - keep) * away
    state.loss_variance = keep * (state.loss_variance + (1.0 - keep) * away * away)
