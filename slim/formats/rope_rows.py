"""The two orders of the rows that RoPE turns: half-split (Hugging Face, ours) and interleaved (Meta, llama2.c, GGUF).

Pair i of a head of D rows is (i, i + D/2) in the one and (2i, 2i + 1) in the other, at the same angle. Only the rows of
q and k move, head by head. With the wrong order every logit is off.
"""

from __future__ import annotations

import numpy as np

from slim.config import ModelConfig


def interleaved(weight: np.ndarray, n_heads: int) -> np.ndarray:
    """Rows (n_heads * D, in) from half-split to interleaved order, as a contiguous copy."""
    rows, columns = weight.shape
    halves = weight.reshape(n_heads, 2, rows // n_heads // 2, columns)
    return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(rows, columns)


def half_split(weight: np.ndarray, n_heads: int) -> np.ndarray:
    """Rows (n_heads * D, in) from interleaved to half-split order, as a contiguous copy."""
    rows, columns = weight.shape
    pairs = weight.reshape(n_heads, rows // n_heads // 2, 2, columns)
    return np.ascontiguousarray(pairs.swapaxes(1, 2)).reshape(rows, columns)


def rotated_heads(name: str, config: ModelConfig) -> int | None:
    """How many heads the rows of a weight belong to where RoPE turns them, by its Hugging Face name; None elsewhere."""
    if name.endswith("self_attn.q_proj.weight"):
        return config.n_heads
    if name.endswith("self_attn.k_proj.weight"):
        return config.n_kv_heads
    return None
