"""Every kernel that a model runs, with the signature it has under each precision: what there is to compile.

The kernels of the tokenizer are compiled when a text is first read.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import types
from numba.core import config as numba_config
from numba.np.numpy_support import from_dtype

from slim.kernels.adamw import adamw, sum_of_squares
from slim.kernels.attention import attention_backward, attention_forward, pack_keys_values
from slim.kernels.cross_entropy import cross_entropy
from slim.kernels.decode import decode_rows
from slim.kernels.embedding import embedding_backward, embedding_forward
from slim.kernels.int8 import pack8
from slim.kernels.matmul import matmul, matmul_add, matmul_weight_gradient, pack
from slim.kernels.muon import muon
from slim.kernels.operand import operand_dtype
from slim.kernels.rmsnorm import rmsnorm_backward, rmsnorm_forward
from slim.kernels.rope import rope
from slim.kernels.sampling import measure_rows, sample_rows
from slim.kernels.swiglu import swiglu_backward, swiglu_forward

Entry = tuple[Any, tuple[types.Type, ...]]


def kernels_of(precision: str, training: bool, optimizer: str = "muon") -> list[Entry]:
    """(kernel, signature) for a model of this precision: those of generation and evaluation, or those of training too.

    What takes longest to compile comes first, so that processes which share the work end together.
    Nothing where Numba is told not to compile.
    """
    if numba_config.DISABLE_JIT:
        return []
    n, f = types.int64, types.float32
    F1, F2, F3 = (types.Array(f, ndim, "C") for ndim in (1, 2, 3))
    tokens = types.Array(types.int32, 1, "C")
    B1, B2 = types.Array(types.int8, 1, "C"), types.Array(types.uint8, 2, "C")
    operand = from_dtype(np.dtype(operand_dtype(precision)))
    decoded = B1 if precision == "int8" else types.Array(operand, 1, "C")
    P1, P2, P3, P4 = (types.Array(operand, ndim, "C") for ndim in (1, 2, 3, 4))
    I2 = types.Array(types.int32, 2, "C")
    layers, board = types.Array(n, 2, "C"), types.Array(n, 1, "C")
    decoding = (F2, P4, P4, F2, P2, B2, F1, tokens, n, F1, n, n, decoded, layers, n, F2, F2, n, n, n, n, f, board, n)
    table: list[Entry] = []
    if training and optimizer == "muon":
        table.append((muon, (F1, F1, F1, layers, F2, P2, f, f, f, f, f, f)))
    if training:
        table += [
            (attention_backward, (P2, P2, P2, F3, P2, P3, n, n, n, F2, P2)),
            (matmul_weight_gradient, (F2, P2, P2, P2)),
            (rmsnorm_backward, (F2, P2, F1, F2, F2, F2, F1, F1)),
            (swiglu_backward, (P2, P2, P2, P2)),
            (adamw, (F1, F1, F1, F1, n, f, f, f, f, f, f, f, f)),
            (embedding_backward, (F2, F2, tokens)),
            (sum_of_squares, (F1, F1)),
        ]
        if operand != f:
            table.append((cross_entropy, (F1, P2, F2, tokens, f)))
    table += [
        (decode_rows, decoding),
        (attention_forward, (P2, F3, P2, P3, P3, n, n, n, n, F2, P2)),
        (sample_rows, (tokens, F1, F2, I2, F1, F1, F1, f, n, f, f, f)),
        (matmul, (F2, P2, P1, P2)),
        (pack, (P1, P1, F2)),
        (matmul_add, (F2, F2, P2, P1, P2)),
        (pack_keys_values, (P3, P3, P2, n, n, n, n)),
        (cross_entropy, (F1, F2, F2, tokens, f)),
        (rope, (P2, F2, F2, n, n, n, f)),
        (rmsnorm_forward, (P2, F1, F2, F1, f)),
        (swiglu_forward, (P2, P2)),
        (embedding_forward, (F2, tokens, F2)),
        (measure_rows, (F2, tokens, F2, tokens, F1)),
    ]
    if operand != f:
        table.append((matmul, (P2, P2, P1, P2)))
    if precision == "int8":
        table.append((pack8, (B1, n, F2)))
    return table
