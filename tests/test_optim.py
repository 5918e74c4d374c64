"""AdamW against torch and float64, clipping, and the learning rate at the corners of its schedules."""

from __future__ import annotations

import numpy as np
import pytest

import reference
from slim.config import ModelConfig, TrainConfig
from slim.optim import AdamW, learning_rate
from slim.parameters import Parameters

Array = np.ndarray
SIZES = ModelConfig(vocab_size=37, dim=12, n_layers=1, n_heads=2, hidden_dim=9, max_seq_len=8)
RECIPE = TrainConfig(learning_rate=3e-3, weight_decay=0.1, clip_norm=0.0)


def gradient(parameters: Parameters, step: int) -> Array:
    rng = np.random.default_rng(step)
    return 0.1 * rng.standard_normal(parameters.flat.size, np.float32)


def run(steps: int) -> tuple[Array, Array, Array]:
    """Weights after so many updates: ours, torch's in float32, and those of float64."""
    torch = pytest.importorskip("torch")
    parameters, gradients = Parameters(SIZES).initialise(0), Parameters(SIZES)
    ours = AdamW(parameters, RECIPE)
    cut = parameters.n_decayed
    groups = [torch.nn.Parameter(torch.tensor(part)) for part in np.split(parameters.flat, [cut])]
    theirs = torch.optim.AdamW(
        [{"params": [groups[0]], "weight_decay": 0.1}, {"params": [groups[1]], "weight_decay": 0.0}],
        lr=3e-3, betas=(RECIPE.beta1, RECIPE.beta2), eps=RECIPE.adam_eps,
    )  # fmt: skip
    exact = parameters.flat.astype(np.float64)
    m = v = np.zeros_like(exact)
    decayed = np.arange(exact.size) < cut
    for step in range(1, steps + 1):
        g = gradient(parameters, step)
        gradients.flat[:] = g
        ours.step(gradients, 3e-3, 1.0)
        for group, part in zip(groups, np.split(g, [cut]), strict=True):
            group.grad = torch.tensor(part)
        theirs.step()
        exact, m, v = reference.adamw(
            exact, m, v, g.astype(np.float64), decayed, step=step, learning_rate=3e-3,
            beta1=RECIPE.beta1, beta2=RECIPE.beta2, eps=RECIPE.adam_eps, decay=0.1,
        )  # fmt: skip
    return parameters.flat, np.concatenate([g.detach().numpy() for g in groups]), exact


def test_a_step_is_that_of_torch() -> None:
    ours, theirs, exact = run(1)
    assert np.abs(ours - theirs).max() < 1e-6
    assert np.abs(ours - exact).max() < 1e-6


def test_a_thousand_steps_stay_as_close_to_float64_as_those_of_torch() -> None:
    ours, theirs, exact = run(1000)
    assert np.linalg.norm(ours - exact) <= 1.1 * np.linalg.norm(theirs - exact)


def test_norms_do_not_decay() -> None:
    parameters, gradients = Parameters(SIZES), Parameters(SIZES)
    parameters.flat.fill(1.0)
    AdamW(parameters, RECIPE).step(gradients, 0.5, 0.0)
    for _, view in parameters:
        assert np.allclose(view, 1.0 if view.ndim == 1 else 0.95, rtol=1e-6)


def test_gradients_are_clipped_to_a_norm() -> None:
    parameters, gradients = Parameters(SIZES), Parameters(SIZES)
    optimizer = AdamW(parameters, TrainConfig(clip_norm=1.0))
    gradients.flat[:] = gradient(parameters, 1)
    before = gradients.flat.copy()
    norm = optimizer.gradient_norm(gradients)
    assert norm == pytest.approx(reference.gradient_norm(before), rel=1e-6)
    assert norm > 1.0
    optimizer.step(gradients, 1e-3, norm)
    np.testing.assert_allclose(optimizer.m.flat, 0.1 * before / norm, rtol=1e-4, atol=1e-8)
    assert not gradients.flat.any()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_norm_tells_what_is_not_finite(bad: float) -> None:
    gradients = Parameters(SIZES)
    gradients.flat[5] = bad
    assert not np.isfinite(AdamW(Parameters(SIZES), RECIPE).gradient_norm(gradients))


@pytest.mark.parametrize(
    ("schedule", "step", "expected"),
    [
        *(("cosine", 1, 0.01), ("cosine", 100, 1.0), ("cosine", 600, 0.55), ("cosine", 1100, 0.1)),
        *(("constant", 50, 0.5), ("constant", 100, 1.0), ("constant", 1100, 1.0)),
        *(("wsd", 100, 1.0), ("wsd", 880, 1.0), ("wsd", 990, 0.55), ("wsd", 1100, 0.1)),
    ],
)
def test_corners_of_the_schedules(schedule: str, step: int, expected: float) -> None:
    config = TrainConfig(learning_rate=1.0, min_lr_ratio=0.1, warmup_steps=100, schedule=schedule)
    assert learning_rate(config, step, 1100) == pytest.approx(expected)
