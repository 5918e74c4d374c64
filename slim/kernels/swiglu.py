"""SwiGLU (Shazeer 2020): out = silu(gate) * up, silu(g) = g / (1 + e^-g)."""

from __future__ import annotations

import numpy as np
from numba import njit, prange

from slim.kernels import PARALLEL
from slim.kernels.elementary import exp

ONE = np.float32(1.0)


@njit(**PARALLEL)
def swiglu_forward(out, gate_up):
    """out (N, F) =   gate_up (N, 2F): gate in the first F columns, up in the last"""
    N, F = out.shape
    for n in prange(N):
        gate, up, to = gate_up[n, :F], gate_up[n, F:], out[n]
        for f in range(F):
            to[f] = gate[f] / (ONE + exp(-gate[f])) * up[f]


@njit(**PARALLEL)
def swiglu_backward(dgate_up, dout, gate_up):
    """dgate_up (N, 2F) =   dout (N, F)   gate_up (N, 2F)

    silu'(g) = s + silu(g) * (1 - s) with s = sigmoid(g).
    """
    N, F = dout.shape
    for n in prange(N):
        gate, up, d = gate_up[n, :F], gate_up[n, F:], dout[n]
        dgate, dup = dgate_up[n, :F], dgate_up[n, F:]
        for f in range(F):
            s = ONE / (ONE + exp(-gate[f]))
            silu = gate[f] * s
            dgate[f] = d[f] * up[f] * (s + silu * (ONE - s))
            dup[f] = d[f] * silu
