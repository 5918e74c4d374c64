"""Whole models that take a millisecond a step: shapes that no tile divides, weights that make every part matter."""

from __future__ import annotations

import numpy as np
from numba.core import config as numba_config

from buffers import Array, allocate
from slim.config import ModelConfig
from slim.kernels.tile import HAS_BF16
from slim.model import Model
from slim.parameters import Parameters

CONFIGS = {
    "grouped, tied": ModelConfig(
        vocab_size=37, dim=24, n_layers=2, n_heads=4, n_kv_heads=2, hidden_dim=34, max_seq_len=160
    ),
    "one key head, odd sizes": ModelConfig(
        vocab_size=11, dim=10, n_layers=3, n_heads=5, n_kv_heads=1, hidden_dim=7, max_seq_len=160
    ),
    "one head, untied": ModelConfig(
        vocab_size=67, dim=32, n_layers=1, n_heads=1, hidden_dim=16, max_seq_len=160, tie_embeddings=False
    ),
    "wide heads, untied": ModelConfig(
        vocab_size=131, dim=96, n_layers=2, n_heads=2, hidden_dim=130, max_seq_len=160, tie_embeddings=False
    ),
}  # fmt: skip
PRECISIONS = ("fp32", "bf16") if HAS_BF16 and not numba_config.DISABLE_JIT else ("fp32",)
# Every config in float32; in bfloat16 those whose rows are whole units.
MODELS = [
    (name, precision)
    for name, config in CONFIGS.items()
    for precision in PRECISIONS
    if precision == "fp32" or (config.dim % 2 == 0 and config.hidden_dim % 2 == 0)
]


class NanNumpy:
    """NumPy, except that `empty` is full of NaN, and that its memory and that of `zeros` may end at a wall."""

    def __getattr__(self, name: str) -> object:
        return getattr(np, name)

    @staticmethod
    def empty(shape: int | tuple[int, ...], dtype: type = np.float64) -> Array:
        array = NanNumpy._new(shape, dtype)
        array.fill({np.uint16: 0x7FC0, np.uint8: 0xFF, np.int32: -1}.get(dtype, np.nan))
        return array

    @staticmethod
    def zeros(shape: int | tuple[int, ...], dtype: type = np.float64) -> Array:
        array = NanNumpy._new(shape, dtype)
        array.fill(0)
        return array

    @staticmethod
    def _new(shape: int | tuple[int, ...], dtype: type) -> Array:
        n_bytes = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
        return allocate(n_bytes).view(dtype).reshape(shape)


def tiny_model(name: str, precision: str = "fp32", seed: int = 0) -> Model:
    """A model of CONFIGS whose activations are about 1 everywhere, and whose norms are not."""
    config = CONFIGS[name]
    parameters = Parameters(config)
    rng = np.random.default_rng(seed)
    for _, view in parameters:
        noise = rng.standard_normal(view.shape, np.float32)
        view[:] = 1 + 0.2 * noise if view.ndim == 1 else noise / np.sqrt(view.shape[1])
    return Model(config, parameters, precision)


def in_float64(parameters: Parameters) -> dict[str, Array]:
    """The weights by name, for the reference."""
    return {name: view.astype(np.float64) for name, view in parameters}


def tiny_batch(config: ModelConfig, B: int, T: int, seed: int = 0) -> tuple[Array, Array]:
    """Tokens and targets (B, T) int32; about one target in five counts nothing."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(0, config.vocab_size, (B, T), np.int32)
    targets = rng.integers(0, config.vocab_size, (B, T), np.int32)
    targets[rng.random((B, T)) < 0.2] = -1
    targets[0, 0] = 0
    return tokens, targets
