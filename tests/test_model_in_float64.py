"""float32 kernels against float64, norm-wise, on models of many shapes: logits and every gradient at once, by torch."""

from __future__ import annotations

import numpy as np
import pytest
from numba.core import config as numba_config

import reference
from slim.config import ModelConfig
from slim.model import Model
from slim.parameters import Parameters
from tiny_models import in_float64, tiny_batch

Array = np.ndarray
LOGITS, GRADIENTS = 1e-5, 1e-4  # |found - exact| / |exact|, Euclidean
COUNT = 30


def drawn(seed: int) -> tuple[ModelConfig, int, int]:
    """A model and a batch (B, T): sizes from one to several tiles, with and without shared key heads and head."""
    rng = np.random.default_rng(seed)
    n_kv_heads, shared, half = (int(rng.integers(1, most)) for most in (4, 4, 25))
    config = ModelConfig(
        vocab_size=int(rng.integers(2, 400)),
        dim=n_kv_heads * shared * 2 * half,
        n_layers=int(rng.integers(1, 5)),
        n_heads=n_kv_heads * shared,
        n_kv_heads=n_kv_heads,
        hidden_dim=int(rng.integers(1, 300)),
        max_seq_len=256,
        rope_theta=float(rng.choice([100.0, 10_000.0, 500_000.0])),
        norm_eps=float(rng.choice([1e-6, 1e-5, 1e-3])),
        tie_embeddings=bool(rng.integers(2)),
    )
    return config, int(rng.integers(1, 5)), int(rng.integers(1, 200))


def distance(found: Array, exact: Array) -> float:
    return float(np.linalg.norm(found - exact) / np.linalg.norm(exact))


FAST = (0, 7, 14)


@pytest.mark.skipif(numba_config.DISABLE_JIT, reason="takes minutes without the compiler")
@pytest.mark.parametrize(
    "seed", [n if n in FAST else pytest.param(n, marks=pytest.mark.soak) for n in range(COUNT)]
)
def test_logits_and_gradients_are_near_float64(seed: int) -> None:
    pytest.importorskip("torch")
    from torch_model import logits_and_gradients

    config, B, T = drawn(seed)
    # Weights of size 1/sqrt(inputs): activations about 1, so that every part of the model matters.
    parameters = Parameters(config)
    rng = np.random.default_rng(seed)
    for _, view in parameters:
        noise = rng.standard_normal(view.shape, np.float32)
        view[:] = 1 + 0.2 * noise if view.ndim == 1 else noise / np.sqrt(view.shape[1])
    model = Model(config, parameters, "fp32")
    tokens, targets = tiny_batch(config, B, T, seed)
    exact, slopes = logits_and_gradients(in_float64(parameters), config, tokens, targets)
    w = model.workspace(B, T, train=True)
    assert distance(model.logits(w, tokens), exact) <= LOGITS
    # Two float64 models, written apart, one in NumPy and one in torch, agree far better than that.
    assert distance(reference.model_logits(in_float64(parameters), config, tokens), exact) < 1e-12
    gradients = Parameters(config)
    model.loss_and_gradients(w, tokens, targets, gradients)
    whole = np.concatenate([slopes[name].ravel() for name, _ in parameters])
    assert distance(gradients.flat, whole) <= GRADIENTS
    for name, gradient in gradients:  # a small one must not hide behind a large one
        assert distance(gradient, slopes[name]) <= 10 * GRADIENTS, name
