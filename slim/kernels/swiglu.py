"""SwiGLU (Shazeer 2020): out = silu(gate) * up, silu(g) = g / (1 + e^-g)."""

from __future__ import annotations

import numpy as np
from numba import njit, prange

from slim.kernels import PARALLEL
from slim.kernels.ahead import expect_to_read
from slim.kernels.elementary import exp
from slim.kernels.operand import load, store

AHEAD = 1  # rows that are asked for while one is computed: of gate and up a page or more each
ONE = np.float32(1.0)


@njit(**PARALLEL)
def swiglu_forward(out, gate_up):
    """out (N, F) =   gate_up (N, 2F): gate in the first F columns, up in the last; both operands"""
    N, F = out.shape
    flat = gate_up.reshape(-1)
    for n in prange(N):
        expect_to_read(flat, (n + AHEAD) * 2 * F, 0, 1, 2 * F)
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
    flat = gate_up.reshape(-1)
    for n in prange(N):
        expect_to_read(flat, (n + AHEAD) * 2 * F, 0, 1, 2 * F)
        gate, up, d = gate_up[n, :F], gate_up[n, F:], dout[n]
        dgate, dup, to = dgate_up[n, :F], dgate_up[n, F:], out[n]
        for f in range(F):
            g, u, upstream = load(gate, f), load(up, f), load(d, f)
            s = ONE / (ONE + exp(-g))
            silu = g * s
            store(to, f, silu * u)
            store(dgate, f, upstream * u * (s + silu * (ONE - s)))
            store(dup, f, upstream * silu)
