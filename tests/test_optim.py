"""AdamW against torch and float64, Muon against float64, clipping, and the learning rate at the corners of its schedules."""

from __future__ import annotations

import numpy as np
import pytest

import reference
from slim.config import ModelConfig, TrainConfig
from slim.kernels.operand import operand_dtype
from slim.kernels.tile import HAS_BF16
from slim.optim import (
    NEWTON_SCHULZ,
    UPDATE_RMS,
    AdamW,
    Muon,
    is_hidden,
    learning_rate,
    moment_bytes,
    monic,
)
from slim.parameters import Parameters

Array = np.ndarray
SIZES = ModelConfig(vocab_size=37, dim=12, n_layers=1, n_heads=2, hidden_dim=9, max_seq_len=8)
RECIPE = TrainConfig(learning_rate=3e-3, weight_decay=0.1, clip_norm=0.0)
BAND = 0.62, 1.38  # of the singular values that the polynomials make of 0.01 to 1


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


# ---- Muon -------------------------------------------------------------------------------------------------------

HIDDEN = ModelConfig(
    vocab_size=37, dim=72, n_layers=2, n_heads=4, n_kv_heads=2, hidden_dim=100, tie_embeddings=False
)
FACTOR = 3e-3 * UPDATE_RMS  # of a step, in orthogonal matrices times sqrt(max(rows, columns))


@pytest.mark.parametrize(
    ("precision", "most"),
    [
        ("fp32", 1e-5),
        # Operands have 8 bits, and what is small becomes 75 times as large.
        pytest.param("bf16", 0.06, marks=pytest.mark.skipif(not HAS_BF16, reason="no bfloat16")),
    ],
)
def test_updates_of_muon_are_those_of_float64(precision: str, most: float) -> None:
    """Matrices in the layers by Muon, all others as by AdamW, over some updates."""
    parameters, gradients = Parameters(HIDDEN).initialise(0), Parameters(HIDDEN)
    others, same_gradients = Parameters(HIDDEN).initialise(0), Parameters(HIDDEN)
    recipe = TrainConfig(optimizer="muon", momentum=0.9, weight_decay=0.1, clip_norm=0.0)
    muon, adamw = Muon(parameters, recipe, operand_dtype(precision)), AdamW(others, recipe)
    exact = {name: view.astype(np.float64) for name, view in parameters}
    momenta = {name: np.zeros_like(view) for name, view in exact.items()}
    begin = parameters.flat.copy()
    for step in range(1, 6):
        gradients.flat[:] = same_gradients.flat[:] = gradient(parameters, step)
        given = {name: view.astype(np.float64) for name, view in gradients}
        muon.step(gradients, 3e-3, 1.0)
        adamw.step(same_gradients, 3e-3, 1.0)
        assert not gradients.flat.any()
        for name, shape in parameters.shapes.items():
            if is_hidden(name, shape):
                exact[name], momenta[name] = reference.muon(
                    exact[name], momenta[name], given[name], learning_rate=3e-3, momentum=0.9,
                    decay=0.1, rms=UPDATE_RMS, polynomials=NEWTON_SCHULZ,
                )  # fmt: skip
    first = Parameters(HIDDEN)
    first.flat[:] = begin
    hidden = 0
    for name, view in parameters:
        if is_hidden(name, view.shape):
            hidden += 1
            way = np.linalg.norm(exact[name] - first.views[name])
            assert np.linalg.norm(view - exact[name]) <= most * way, name
            np.testing.assert_allclose(muon.m.views[name], momenta[name], rtol=1e-5, atol=1e-7)
        else:
            assert np.array_equal(view, others.views[name]), name
    assert hidden == 14


@pytest.mark.parametrize("precision", ["fp32", "bf16"] if HAS_BF16 else ["fp32"])
def test_steps_of_muon_are_nearly_orthogonal(precision: str) -> None:
    """Singular values of whatever size come near to 1, and the vectors stay: the step is a polar factor."""
    parameters, gradients = Parameters(HIDDEN), Parameters(HIDDEN)
    rng = np.random.default_rng(3)
    for name, view in gradients:
        if is_hidden(name, view.shape):
            left, _, right = np.linalg.svd(rng.standard_normal(view.shape), full_matrices=False)
            view[:] = (left * np.geomspace(1.0, 0.05, min(view.shape))) @ right
    given = {name: view.astype(np.float64) for name, view in gradients}
    recipe = TrainConfig(optimizer="muon", clip_norm=0.0)
    Muon(parameters, recipe, operand_dtype(precision)).step(gradients, 3e-3, 1.0)
    for name, view in parameters:
        if is_hidden(name, view.shape):
            step = -view.astype(np.float64) / (FACTOR * np.sqrt(max(view.shape)))
            left, _, right = np.linalg.svd(given[name], full_matrices=False)
            values = np.diag(left.T @ step @ right.T)
            lowest, highest = BAND
            assert lowest < values.min() and values.max() < highest, (name, values)
            away = np.linalg.norm(step - (left * values) @ right) / np.linalg.norm(step)
            assert away < (1e-5 if precision == "fp32" else 0.06), name


def test_polynomials_are_the_same_with_the_scale_between_them() -> None:
    """And bring 0.01 to 1 into the band that the step promises."""
    x = np.linspace(0.01, 1.0, 10_000)
    scale, coefficients = monic(NEWTON_SCHULZ)
    expected, found = x, x * float(scale)
    for (a, b, c), (t, u) in zip(NEWTON_SCHULZ, coefficients.astype(np.float64), strict=True):
        expected = a * expected + b * expected**3 + c * expected**5
        found = found * (found**2 * (found**2 + t) + u)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert BAND[0] < found.min() and found.max() < BAND[1]


def test_a_matrix_without_gradient_and_momentum_only_decays() -> None:
    parameters, gradients = Parameters(HIDDEN), Parameters(HIDDEN)
    parameters.flat.fill(1.0)
    recipe = TrainConfig(optimizer="muon", weight_decay=0.1)
    Muon(parameters, recipe, np.float32).step(gradients, 0.5, 0.0)
    for _, view in parameters:
        assert np.allclose(view, 1.0 if view.ndim == 1 else 0.95, rtol=1e-6)


def test_what_muon_keeps_is_what_the_estimate_counts() -> None:
    adamw, muon = (moment_bytes(HIDDEN, name, 4, threads=1) for name in ("adamw", "muon"))
    kept = Muon(Parameters(HIDDEN), RECIPE, np.float32).moments()
    assert adamw == sum(moment.nbytes for moment in AdamW(Parameters(HIDDEN), RECIPE).moments().values())
    scratch = moment_bytes(HIDDEN, "muon", 4, threads=2) - muon
    assert muon == sum(moment.nbytes for moment in kept.values()) + scratch
    assert not any(key.startswith("v.") and is_hidden(key, view.shape) for key, view in kept.items())


# ---- the learning rate ------------------------------------------------------------------------------------------


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
