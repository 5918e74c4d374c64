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
        for f in range(F):
            gate = gate_up[n, f]
            out[n, f] = gate / (ONE + exp(-gate)) * gate_up[n, F + f]


@njit(**PARALLEL)
def swiglu_backward(dgate_up, dout, gate_up):
    """dgate_up (N, 2F) =   dout (N, F)   gate_up (N, 2F)

    silu'(g) = s + silu(g) * (1 - s) with s = sigmoid(g).
    """
    N, F = dout.shape
    for n in prange(N):
        for f in range(F):
            gate, d = gate_up[n, f], dout[n, f]
            s = ONE / (ONE + exp(-gate))
            silu = gate * s
            dgate_up[n, f] = d * gate_up[n, F + f] * (s + silu * (ONE - s))
            dgate_up[n, F + f] = d * silu
