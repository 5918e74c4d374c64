"""The training loop: what it does to weights and state, and what it does when numbers are not finite."""

from __future__ import annotations

import gc
import math
import tracemalloc
from collections.abc import Iterator

import numpy as np
import pytest

from slim import trainer as train_module
from slim.config import ModelConfig, TrainConfig
from slim.data import TokenData, batch
from slim.events import StepFinished, StepSkipped
from slim.model import Model
from slim.optim import learning_rate
from slim.parameters import Parameters
from slim.trainer import (
    BAD_STEPS,
    SPIKE_AFTER,
    SPIKE_NATS,
    Trainer,
    TrainingState,
    UnstableError,
    train,
)

TINY = ModelConfig(vocab_size=61, dim=16, n_layers=2, n_heads=2, hidden_dim=24, max_seq_len=16)
B, T = 4, 16


def tokens(count: int = 400, seed: int = 0) -> np.ndarray:
    """Ids in which the next one often follows from the last."""
    rng = np.random.default_rng(seed)
    ids = np.cumsum(rng.integers(1, 4, count)) % TINY.vocab_size
    return ids.astype(np.int32)


def make_trainer(
    model: ModelConfig = TINY, ids: np.ndarray | None = None, **recipe: object
) -> Trainer:
    parameters = Parameters(model).initialise(0)
    data = TokenData(tokens() if ids is None else ids, n_train_bytes=1000)
    config = TrainConfig(**{"warmup_steps": 5, **recipe})  # type: ignore[arg-type]
    return Trainer(Model(model, parameters), data, config, B, T)


def test_events_say_what_happened() -> None:
    trainer = make_trainer()
    events = list(train(trainer, 30))
    assert [type(event) for event in events] == [StepFinished] * 30
    assert [event.step for event in events] == list(range(1, 31))
    assert [event.tokens_seen for event in events] == [step * B * T for step in range(1, 31)]
    rates = [learning_rate(trainer.config, step, 30) for step in range(1, 31)]
    assert [event.learning_rate for event in events] == rates
    assert events[-1].epoch == pytest.approx(30 / trainer.steps_per_epoch)
    assert events[-1].loss < events[0].loss - 0.2
    assert all(event.tokens_per_second > 0 and event.grad_norm > 0 for event in events)
    elapsed = [event.elapsed_seconds for event in events]
    assert elapsed == sorted(elapsed) and events[-1].eta_seconds == 0.0
    assert trainer.state.step == trainer.state.updates == 30


@pytest.mark.parametrize("tie", [True, False])
def test_loss_at_the_beginning_is_that_of_guessing(tie: bool) -> None:
    model = ModelConfig(
        vocab_size=512,
        dim=64,
        n_layers=2,
        n_heads=4,
        hidden_dim=96,
        max_seq_len=16,
        tie_embeddings=tie,
    )
    ids = np.random.default_rng(1).integers(0, 512, 2000).astype(np.int32)
    (event,) = list(train(make_trainer(model, ids), 1))
    assert event.loss == pytest.approx(math.log(512), rel=0.02)


def test_one_batch_is_learnt_by_heart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Below 0.05 in 300 steps: the whole path from tokens to weights works."""
    model = ModelConfig(vocab_size=61, dim=32, n_layers=2, n_heads=2, hidden_dim=64, max_seq_len=16)
    ids = np.random.default_rng(2).integers(0, 61, B * T).astype(np.int32)
    trainer = make_trainer(model, ids, learning_rate=1e-2, weight_decay=0.0)
    one = batch(trainer.data, 0, 0, B, T)
    monkeypatch.setattr(train_module, "batch", lambda *where: one)
    losses = [event.loss for event in train(trainer, 300)]
    assert losses[-1] < 0.05


def test_accumulated_batches_are_one_large_batch() -> None:
    large = make_trainer()
    parts = make_trainer(accumulate=2)
    wide = Trainer(large.model, large.data, large.config, 2 * B, T)
    loss, norm = wide.compute_gradients(3)
    loss_of_parts, norm_of_parts = parts.compute_gradients(3)
    assert loss_of_parts == pytest.approx(loss, rel=1e-5)
    assert norm_of_parts == pytest.approx(norm, rel=1e-4)
    np.testing.assert_allclose(parts.gradients.flat, wide.gradients.flat, atol=1e-6)


def test_gradients_are_clipped_to_the_norm() -> None:
    """AdamW forgets the scale of gradients, but the first moment does not: clipped ones lead to 1 / (1 - beta1)."""
    trainer = make_trainer(clip_norm=1e-3, optimizer="adamw")
    next(train(trainer, 10))
    first_moment = float(np.linalg.norm(trainer.optimizer.m.flat))
    assert first_moment == pytest.approx((1 - trainer.config.beta1) * 1e-3, rel=1e-3)


def test_going_on_from_a_state_is_going_on() -> None:
    whole = make_trainer()
    expected = [event.loss for event in train(whole, 20)]
    first = make_trainer()
    updates = train(first, 20)
    losses = [next(updates).loss for _ in range(7)]  # type: ignore[union-attr]
    second = make_trainer()
    for ours, theirs in (
        (second.model.parameters, first.model.parameters),
        (second.optimizer.m, first.optimizer.m),
        (second.optimizer.v, first.optimizer.v),
    ):
        ours.flat[:] = theirs.flat
    second.model.pack()
    second.state = TrainingState(**first.state.as_dict())  # type: ignore[arg-type]
    losses += [event.loss for event in train(second, 20)]
    assert losses == expected
    assert np.array_equal(second.model.parameters.flat, whole.model.parameters.flat)
    assert second.state.smoothed_loss == whole.state.smoothed_loss


def test_a_rehearsal_changes_nothing() -> None:
    rehearsed, plain = make_trainer(), make_trainer()
    assert all(rehearsed.rehearse() > 0 for _ in range(3))
    assert [event.loss for event in train(rehearsed, 5)] == [
        event.loss for event in train(plain, 5)
    ]
    assert np.array_equal(rehearsed.model.parameters.flat, plain.model.parameters.flat)


def spoil(trainer: Trainer, steps: dict[int, float], monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace the loss of some steps (counted from 0), and put NaN into the gradient where it is NaN."""
    compute = trainer.compute_gradients

    def spoilt(step: int) -> tuple[float, float]:
        loss, norm = compute(step)
        if step not in steps:
            return loss, norm
        if not math.isfinite(steps[step]):
            trainer.gradients.flat[3] = np.nan
            norm = trainer.optimizer.gradient_norm(trainer.gradients)
        return steps[step], norm

    monkeypatch.setattr(trainer, "compute_gradients", spoilt)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_step_that_is_not_finite_is_skipped(
    value: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make_trainer()
    spoil(trainer, {4: value, 6: value, 7: value}, monkeypatch)
    updates = train(trainer, 12)
    before = [next(updates) for _ in range(4)]
    weights = trainer.model.parameters.flat.copy()
    skipped = next(updates)
    assert skipped == StepSkipped(5, "the loss is not finite")
    assert np.array_equal(trainer.model.parameters.flat, weights)
    assert not trainer.gradients.flat.any(), "nothing of it is left for the next step"
    events = [*before, skipped, *updates]
    kinds = "".join("s" if isinstance(event, StepSkipped) else "." for event in events)
    assert kinds == "....s.ss...."
    assert [event.step for event in events] == list(range(1, 13))
    assert trainer.state.updates == 9 and np.isfinite(trainer.model.parameters.flat).all()


def test_a_weight_that_is_not_finite_is_noticed() -> None:
    """The kernels themselves let a NaN through to the norm: nothing on the way assumes that there is none."""
    trainer = make_trainer()
    trainer.model.parameters.flat[-1] = np.nan
    trainer.model.pack()
    updates = train(trainer, 10)
    assert isinstance(next(updates), StepSkipped)


def test_three_in_a_row_ask_for_an_earlier_state(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = make_trainer()
    spoil(trainer, dict.fromkeys(range(5, 100), math.nan), monkeypatch)
    events: list[object] = []
    with pytest.raises(UnstableError, match="3 steps in a row"):
        events.extend(train(trainer, 50))
    assert sum(isinstance(event, StepSkipped) for event in events) == BAD_STEPS
    assert trainer.state.step == 8


def test_one_spike_passes_and_two_ask_for_an_earlier_state(monkeypatch: pytest.MonkeyPatch) -> None:
    late = SPIKE_AFTER + 20
    trainer = make_trainer()
    spoil(trainer, {3: 99.0, late: 99.0, late + 5: 99.0, late + 6: 99.0}, monkeypatch)
    events: list[StepFinished] = []
    with pytest.raises(UnstableError, match="losses in a row"):
        events.extend(train(trainer, 500))  # type: ignore[arg-type]
    assert events[-1].step == late + 7
    assert events[late].smoothed_loss == events[late - 1].smoothed_loss, "a spike moves no mean"


def test_a_loss_that_is_just_high_is_no_spike(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = make_trainer()
    expected = [event.loss for event in train(make_trainer(), SPIKE_AFTER + 40)]
    high = expected[-1] + 0.8 * SPIKE_NATS
    spoil(trainer, dict.fromkeys(range(SPIKE_AFTER + 20, SPIKE_AFTER + 30), high), monkeypatch)
    assert len(list(train(trainer, SPIKE_AFTER + 40))) == SPIKE_AFTER + 40


def test_nothing_is_allocated_that_stays() -> None:
    """Memory in Python is flat from step to step, and no step needs much for a moment either."""
    trainer = make_trainer()
    updates = train(trainer, 400)
    for _ in range(100):
        next(updates)
    gc.collect()
    tracemalloc.start()
    try:
        next(updates)
        before, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        for _ in range(200):
            next(updates)
        after, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before < 4_000, "bytes after 200 steps"
    assert peak - before < 100_000, "bytes during a step: batches and chunk sums, no activations"


def test_smoothing_begins_as_a_plain_average() -> None:
    state = TrainingState()
    for updates, loss in enumerate((8.0, 6.0, 4.0), start=1):
        state.updates = updates
        train_module._follow(state, loss)
    assert state.smoothed_loss == pytest.approx(6.0)


def steps_of(events: Iterator[object]) -> list[int]:
    return [event.step for event in events if isinstance(event, StepFinished)]


def test_a_finished_run_has_no_more_steps() -> None:
    trainer = make_trainer()
    assert steps_of(train(trainer, 3)) == [1, 2, 3]
    assert list(train(trainer, 3)) == []
