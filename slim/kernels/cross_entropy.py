"""Cross-entropy of a chunk of logits: loss = log(sum e^logit) - logit[target], dlogit = softmax - onehot.

The model calls it for a few hundred rows at a time, so that the (N, V) logits of a batch never exist in memory.
"""

from __future__ import annotations

import numpy as np
from numba import njit, prange

from slim.kernels import PARALLEL
from slim.kernels.elementary import exp_row, row_max, row_sum
from slim.kernels.operand import clear_row, store

ZERO = np.float32(0.0)


@njit(**PARALLEL)
def cross_entropy(losses, dlogits, logits, targets, scale):
    """losses (N,) =   dlogits (N, >= V) operand = scale * dloss/dlogits, zeros behind V
    logits (N, V) overwritten (dlogits may be the same array)   targets (N,) int32, -1 counts nothing

    With scale 0 only the losses are wanted, and dlogits is left alone.
    """
    N, V = logits.shape
    flat = logits.reshape(-1)
    for n in prange(N):
        target = targets[n]
        if target < 0:
            losses[n] = ZERO
            clear_row(dlogits[n], 0, dlogits.shape[1])
        else:
            row, to = logits[n], dlogits[n]
            largest = row_max(flat, n * V, V)
            at_target = row[target] - largest
            exp_row(flat, n * V, V, largest)
            total = row_sum(flat, n * V, V)
            losses[n] = np.log(total) - at_target
            if scale != ZERO:
                factor = scale / total
                dtarget = row[target] * factor - scale
                for v in range(V):
                    store(to, v, row[v] * factor)
                store(to, target, dtarget)
                clear_row(to, V, dlogits.shape[1] - V)
