"""AdamW (Loshchilov and Hutter 2019) and the gradient norm: one pass each over the flat arrays."""

from __future__ import annotations

import numpy as np
from numba import njit, prange

from slim.kernels import PARALLEL
from slim.kernels.elementary import dot

CHUNK = 16_384  # elements of one task: fixed, so that sums do not depend on the number of threads
ZERO = np.float32(0.0)
ONE = np.float32(1.0)


def norm_chunks(n: int) -> int:
    """Length of the `partial` buffer of `sum_of_squares` for n elements."""
    return -(-n // CHUNK)


@njit(**PARALLEL)
def sum_of_squares(partial, x):
    """partial (norm_chunks(n),) =   x (n,): the sum of squares of each chunk, to be summed by the caller"""
    n = x.shape[0]
    for chunk in prange(partial.shape[0]):
        start = chunk * CHUNK
        partial[chunk] = dot(x, start, x, start, min(CHUNK, n - start))


@njit(**PARALLEL)
def adamw(
    parameters, m, v, gradients, n_decayed, gradient_scale, learning_rate, beta1, beta2, bias1, bias2, eps, decay
):
    """parameters, m, v (n,) updated   gradients (n,) -> zeros   all scalars float32 but n_decayed

    bias1 = 1 - beta1^step, bias2 = 1 - beta2^step. Decoupled decay acts on the first n_decayed elements only.
    """
    n = parameters.shape[0]
    for chunk in prange((n + CHUNK - 1) // CHUNK):
        start, stop = chunk * CHUNK, min((chunk + 1) * CHUNK, n)
        w, d = parameters[start:stop], gradients[start:stop]
        m_part, v_part = m[start:stop], v[start:stop]
        decayed = n_decayed - start
        for i in range(stop - start):
            g = d[i] * gradient_scale
            d[i] = ZERO
            first = beta1 * m_part[i] + (ONE - beta1) * g
            second = beta2 * v_part[i] + (ONE - beta2) * g * g
            m_part[i] = first
            v_part[i] = second
            step = (first / bias1) / (np.sqrt(second / bias2) + eps)
            shrink = learning_rate * decay if i < decayed else ZERO
            w[i] = w[i] - shrink * w[i] - learning_rate * step
