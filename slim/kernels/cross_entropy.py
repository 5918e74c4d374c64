"""Cross-entropy of a chunk of logits: loss = log(sum e^logit) - logit[target], dlogit = softmax - onehot.

The model calls it for a few hundred rows at a time, so that the (N, V) logits of a batch never exist in memory.
"""

from __future__ import annotations

import numpy as np
from numba import njit, prange

from slim.kernels import PARALLEL
from slim.kernels.elementary import exp_row, row_max, row_sum, scale_row

ZERO = np.float32(0.0)


@njit(**PARALLEL)
def cross_entropy(losses, logits, targets, scale):
    """losses (N,) =   logits (N, V) -> scale * dloss/dlogits, in place   targets (N,) int32, -1 counts nothing

    With scale 0 the logits come back as zeros: only the losses are wanted.
    """
    N, V = logits.shape
    flat = logits.reshape(-1)
    for n in prange(N):
        target = targets[n]
        if target < 0:
            losses[n] = ZERO
            for v in range(V):
                logits[n, v] = ZERO
        else:
            largest = row_max(flat, n * V, V)
            at_target = logits[n, target] - largest
            exp_row(flat, n * V, V, largest)
            total = row_sum(flat, n * V, V)
            losses[n] = np.log(total) - at_target
            scale_row(flat, n * V, V, scale / total)
            logits[n, target] -= scale
