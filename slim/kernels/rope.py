"""Rotary position embedding (Su et al. 2021) in Hugging Face's half-split order.

Dimensions i and i + D/2 of a head turn together by the angle position * theta^(-2i/D).
"""

from __future__ import annotations

import numpy as np
from numba import njit, prange

from slim.kernels import PARALLEL
from slim.kernels.operand import load, store


def rope_tables(positions: int, head_dim: int, theta: float) -> tuple[np.ndarray, np.ndarray]:
    """cos and sin of every angle, each (positions, head_dim / 2) float32, computed in float64."""
    frequency = theta ** (-np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)
    angles = np.arange(positions, dtype=np.float64)[:, None] * frequency[None, :]
    return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)


@njit(**PARALLEL)
def rope(qkv, cos, sin, n_rotated, T, start, sign):
    """qkv (N, columns) operand, turned in place in its first n_rotated heads   cos, sin (S, D/2)

    Row n has position start + n % T. sign is +1 forward and -1 backward: the inverse of a rotation turns back.
    """
    N = qkv.shape[0]
    half = cos.shape[1]
    for n in prange(N):
        position = start + n % T
        c, s = cos[position], sin[position]
        for h in range(n_rotated):
            a, b = qkv[n, h * 2 * half : h * 2 * half + half], qkv[n, h * 2 * half + half : (h + 1) * 2 * half]
            for i in range(half):
                first, second = load(a, i), load(b, i)
                store(a, i, first * c[i] - second * (s[i] * sign))
                store(b, i, second * c[i] + first * (s[i] * sign))
