"""SwiGLU (Shazeer 2020): out = silu(gate) * up, silu(g) = g / (1 + e^-g)."""

from __future__ import annotations

import numpy as np
from numba import njit, prange

from slim.kernels import PARALLEL
from slim.kernels.elementary import exp
from slim.kernels.operand import load, store

ONE = np.float32(1.0)


@njit(**PARALLEL)
def swiglu_forward(out, gate_up):
    """out (N, F) =   gate_up (N, 2F): gate in the first F columns, up in the last; both operands"""
    N, F = out.shape
    for n in prange(N):
        gate, up, to = gate_up[n, :F], gate_up[n, F:], out[n]
        for f in range(F):
            g = load(gate, f)
            store(to, f, g / (ONE + exp(-g)) * load(up, f))


@njit(**PARALLEL)
def swiglu_backward(dgate_up, out, dout, gate_up):
    """dgate_up (N, 2F) =   out (N, F) = as forward, which did not keep it   dout (N, F)   gate_up (N, 2F); all operands

    silu'(g) = s + silu(g) * (1 - s) with s = sigmoid(g).
    """
    N, F = dout.shape
    for n in prange(N):
        gate, up, d = gate_up[n, :F], gate_up[n, F:], dout[n]
        dgate, dup, to = dgate_up[n, :F], dgate_up[n, F:], out[n]
        for f in range(F):
            g, u, upstream = load(gate, f), load(up, f), load(d, f)
            s = ONE / (ONE + exp(-g))
            silu = g * s
            store(to, f, silu * u)
            store(dgate, f, upstream * u * (s + silu * (ONE - s)))
            store(dup, f, upstream * silu)
