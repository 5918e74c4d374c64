"""Every op that a model is made of: how a test feeds it, runs its kernels, and what it should be.

A new op, or a new way to run one, is a new entry of OPS; all tests of test_ops.py then apply to it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

import reference
from buffers import Buffers
from slim.kernels.adamw import adamw, norm_chunks, sum_of_squares
from slim.kernels.attention import (
    attention_backward,
    attention_forward,
    attention_scratch_sizes,
    pack_keys_values,
    panel_sizes,
)
from slim.kernels.cross_entropy import cross_entropy
from slim.kernels.embedding import embedding_backward, embedding_forward
from slim.kernels.matmul import (
    gradient_scratch_size,
    matmul,
    matmul_add,
    matmul_weight_gradient,
    pack,
    packed_size,
    product_scratch_size,
)
from slim.kernels.muon import muon, muon_scratch_size
from slim.kernels.rmsnorm import partial_rows, rmsnorm_backward, rmsnorm_forward
from slim.kernels.rope import rope, rope_tables
from slim.kernels.swiglu import swiglu_backward, swiglu_forward
from slim.optim import NEWTON_SCHULZ, monic

Array = np.ndarray
Named = dict[str, Array]
Sizes = Mapping[str, int]
Generator = np.random.Generator
F = np.float32
EPS, THETA = 1e-5, 10_000.0


@dataclass(frozen=True, slots=True)
class Op:
    """An op and all that its tests need; "out" is the result that an upstream gradient belongs to.

    inputs     (generator, sizes) -> float32 or int32 arrays by name
    expected   the results by name, from inputs in float64
    run        (buffers, inputs, sizes, upstream or None) -> results by name, and gradients of the inputs by name
    tolerance  of a result, relative to the root mean square of all of it
    """

    name: str
    sizes: tuple[Sizes, ...]
    inputs: Callable[[Generator, Sizes], Named]
    expected: Callable[[Named, Sizes], Named]
    run: Callable[[Buffers, Named, Sizes, Array | None], tuple[Named, Named]]
    gradients: tuple[str, ...] = ()
    upstream: Callable[[Generator, Array], Array] = lambda rng, out: normal(rng, *out.shape)
    tolerance: float = 1e-5
    gradient_tolerance: float = 1e-4
    # With bfloat16 operands, on top of one rounding of each result that is an operand.
    bf16_tolerance: float = 1e-5
    bf16_gradient_tolerance: float = 1e-4
    has_operands: bool = True
    even_in_bf16: tuple[str, ...] = ()


def normal(rng: Generator, *shape: int) -> Array:
    return rng.standard_normal(shape, np.float32)


def grid(names: str, *rows: tuple[int, ...]) -> tuple[Sizes, ...]:
    """Sizes by name, one row each."""
    return tuple(dict(zip(names.split(), row, strict=True)) for row in rows)


# ---- embedding ------------------------------------------------------------------------------------------------


def embedding_run(b: Buffers, x: Named, s: Sizes, upstream: Array | None) -> tuple[Named, Named]:
    tokens, table = b.given(x["tokens"]), b.given(x["table"])
    out = b.output(s["N"], s["C"])
    embedding_forward(out, tokens, table)
    if upstream is None:
        return {"out": out}, {}
    dtable = b.ones(s["V"], s["C"])
    embedding_backward(dtable, b.given(upstream), tokens)
    return {"out": out}, {"table": dtable - 1}


EMBEDDING = Op(
    name="embedding",
    sizes=grid("N C V", (1, 1, 1), (7, 5, 3), (33, 37, 11), (130, 64, 50)),
    inputs=lambda rng, s: {
        "tokens": rng.integers(0, s["V"], s["N"], np.int32),
        "table": normal(rng, s["V"], s["C"]),
    },
    expected=lambda x, s: {"out": reference.embedding(x["tokens"], x["table"])},
    run=embedding_run,
    gradients=("table",),
    has_operands=False,
)


# ---- rmsnorm --------------------------------------------------------------------------------------------------


def rmsnorm_run(b: Buffers, x: Named, s: Sizes, upstream: Array | None) -> tuple[Named, Named]:
    N, C = s["N"], s["C"]
    rows, weight = b.given(x["x"]), b.given(x["weight"])
    out, rstd = b.operand_output(N, C), b.output(N)
    rmsnorm_forward(out, rstd, rows, weight, F(EPS))
    results = {"out": out, "rstd": rstd}
    if upstream is None:
        return results, {}
    dx, dweight = b.ones(N, C), b.ones(C)
    dx_operand = dx if b.dtype is np.float32 else b.operand_output(N, C)
    partial = b.output(partial_rows(N), C)
    rmsnorm_backward(dx, dx_operand, dweight, partial, b.given(upstream), rows, rstd, weight)
    results["dx_operand"] = dx_operand
    return results, {"x": dx - 1, "weight": dweight - 1}


RMSNORM = Op(
    name="rmsnorm",
    sizes=grid("N C", (1, 1), (1, 2), (3, 7), (5, 32), (64, 33), (65, 48), (131, 31)),
    inputs=lambda rng, s: {"x": normal(rng, s["N"], s["C"]), "weight": normal(rng, s["C"])},
    expected=lambda x, s: {
        "out": reference.rmsnorm(x["x"], x["weight"], EPS),
        "rstd": 1 / np.sqrt(np.mean(x["x"] ** 2, axis=-1) + EPS),
    },
    run=rmsnorm_run,
    gradients=("x", "weight"),
)


# ---- matrix products ------------------------------------------------------------------------------------------


def product_scratch(b: Buffers) -> Array:
    return b.operand_output(b.workers, product_scratch_size(b.dtype))


def linear_run(b: Buffers, x: Named, s: Sizes, upstream: Array | None) -> tuple[Named, Named]:
    M, K, N = s["M"], s["K"], s["N"]
    rows, weight = b.operand(x["x"]), b.given(x["weight"])
    forward = b.operand_output(packed_size(N, K, b.dtype))
    backward = b.operand_output(0 if upstream is None else packed_size(K, N, b.dtype))
    pack(forward, backward, weight)
    out = b.output(M, N)
    products = product_scratch(b)
    matmul(out, rows, forward, products)
    if upstream is None:
        return {"out": out}, {}
    # As an operand a row is a whole number of units: an odd one is followed by a zero.
    padding = N % 2 if b.dtype is not np.float32 else 0
    dout = b.operand(np.pad(upstream, ((0, 0), (0, padding))))
    dx, dweight = b.output(M, K), b.ones(N, K)
    matmul(dx, dout, backward, products)
    scratch = b.operand_output(b.workers, gradient_scratch_size(N, K, b.workers, b.dtype))
    matmul_weight_gradient(dweight, dout, rows, scratch)
    return {"out": out}, {"x": dx, "weight": dweight - 1}


def linear_inputs(rng: Generator, s: Sizes) -> Named:
    return {"x": normal(rng, s["M"], s["K"]), "weight": normal(rng, s["N"], s["K"])}


# Tiles are 8 x 32 or 6 x 16; tasks take 64 or 48 rows, 512 units of k, 128 or 256 of tokens. AMX takes 32, 16 or fewer rows,
# 32 columns, 16 units; of a weight gradient 8 panels at a time are copied.
LINEAR_SIZES = grid(
    "M K N",
    *((1, 1, 1), (1, 2, 1), (2, 3, 5), (7, 17, 33), (13, 10, 5), (65, 34, 67), (64, 32, 96)),
    *((11, 513, 31), (3, 1030, 17), (129, 20, 40), (257, 14, 13), (50, 70, 64), (41, 64, 600)),
)

LINEAR = Op(
    name="linear",
    sizes=LINEAR_SIZES,
    inputs=linear_inputs,
    expected=lambda x, s: {"out": reference.linear(x["x"], x["weight"])},
    run=linear_run,
    gradients=("x", "weight"),
    even_in_bf16=("K",),
)


def linear_to_operand_run(
    b: Buffers, x: Named, s: Sizes, upstream: Array | None
) -> tuple[Named, Named]:
    forward = b.operand_output(packed_size(s["N"], s["K"], b.dtype))
    pack(forward, b.operand_output(0), b.given(x["weight"]))
    out = b.operand_output(s["M"], s["N"])
    matmul(out, b.operand(x["x"]), forward, product_scratch(b))
    return {"out": out}, {}


LINEAR_TO_OPERAND = Op(
    name="linear to operand",
    sizes=LINEAR_SIZES,
    inputs=linear_inputs,
    expected=LINEAR.expected,
    run=linear_to_operand_run,
    even_in_bf16=("K",),
)


def linear_add_run(b: Buffers, x: Named, s: Sizes, upstream: Array | None) -> tuple[Named, Named]:
    forward = b.operand_output(packed_size(s["N"], s["K"], b.dtype))
    pack(forward, b.operand_output(0), b.given(x["weight"]))
    rows, out, same = b.operand(x["x"]), b.output(s["M"], s["N"]), b.changed(x["added"])
    products = product_scratch(b)
    matmul_add(out, b.given(x["added"]), rows, forward, products)
    matmul_add(same, same, rows, forward, products)
    return {"out": out, "in place": same}, {}


def linear_add_expected(x: Named, s: Sizes) -> Named:
    out = x["added"] + reference.linear(x["x"], x["weight"])
    return {"out": out, "in place": out}


LINEAR_ADD = Op(
    name="linear add",
    sizes=LINEAR_SIZES,
    inputs=lambda rng, s: {**linear_inputs(rng, s), "added": normal(rng, s["M"], s["N"])},
    expected=linear_add_expected,
    run=linear_add_run,
    even_in_bf16=("K",),
)


# ---- rope -----------------------------------------------------------------------------------------------------


def rope_run(b: Buffers, x: Named, s: Sizes, upstream: Array | None) -> tuple[Named, Named]:
    cos, sin = (b.given(table) for table in rope_tables(s["start"] + s["T"], s["D"], THETA))
    turned = [x["x"]] if upstream is None else [x["x"], upstream]
    results = []
    for values, sign in zip(turned, (1, -1), strict=False):
        flat = b.changed(np.ascontiguousarray(b.operand(values)).reshape(s["B"] * s["T"], -1))
        rope(flat, cos, sin, s["rotated"], s["T"], s["start"], F(sign))
        results.append(flat.reshape(x["x"].shape))
    return {"out": results[0]}, {} if upstream is None else {"x": results[1]}


def rope_expected(x: Named, s: Sizes) -> Named:
    positions = s["start"] + np.arange(s["T"])
    turned = reference.rope(x["x"][:, :, : s["rotated"]], positions, THETA)
    return {"out": np.concatenate([turned, x["x"][:, :, s["rotated"] :]], axis=2)}


ROPE = Op(
    name="rope",
    sizes=grid(
        "B T heads rotated D start",
        *((1, 1, 1, 1, 2, 0), (2, 3, 5, 4, 6, 0), (1, 7, 3, 2, 32, 501), (3, 5, 4, 4, 48, 13)),
    ),
    inputs=lambda rng, s: {"x": normal(rng, s["B"], s["T"], s["heads"], s["D"])},
    expected=rope_expected,
    run=rope_run,
    gradients=("x",),
)


# ---- attention ------------------------------------------------------------------------------------------------


def side_by_side(*parts: Array) -> Array:
    """Heads (B, T, heads, D) of several arrays as the columns of one (B*T, ...)."""
    B, T = parts[0].shape[:2]
    return np.concatenate([part.reshape(B * T, -1) for part in parts], axis=1)


def attention_run(b: Buffers, x: Named, s: Sizes, upstream: Array | None) -> tuple[Named, Named]:
    B, T, H, G, D, start = (s[name] for name in ("B", "T", "H", "G", "D", "start"))
    qkv = b.operand(side_by_side(x["q"], x["k"][:, start:], x["v"][:, start:]))
    key_size, value_size = panel_sizes(start + T, D)
    keys, values = b.operand_output(B, G, key_size), b.operand_output(B, G, value_size)
    if start > 0:
        values.fill(0)  # a cache begins as zeros: half a unit may be read before it is written
        k, v = x["k"][:, :start], x["v"][:, :start]
        unused = np.zeros((B, start, H, D), np.float32)
        pack_keys_values(keys, values, b.operand(side_by_side(unused, k, v)), start, H, D, 0)
    pack_keys_values(keys, values, qkv, T, H, D, start)
    sums, operands = attention_scratch_sizes(T, D)
    scratch = b.output(b.workers, sums), b.operand_output(b.workers, operands)
    out, lse = b.operand_output(B * T, H * D), b.output(B, H, T)
    attention_forward(out, lse, qkv, keys, values, T, H, D, start, *scratch)
    results = {"out": out.reshape(B, T, H, D), "lse": lse}
    if upstream is None or start > 0:
        return results, {}
    scratch = b.output(b.workers, sums), b.operand_output(b.workers, operands)
    dqkv, dout = b.operand_output(*qkv.shape), b.operand(side_by_side(upstream))
    attention_backward(dqkv, dout, out, lse, qkv, keys, T, H, D, *scratch)
    gradients = dqkv.reshape(B, T, H + 2 * G, D)
    return results, dict(zip("qkv", np.split(gradients, [H, H + G], axis=2), strict=True))


def attention_inputs(rng: Generator, s: Sizes) -> Named:
    B, T, S, D = s["B"], s["T"], s["start"] + s["T"], s["D"]
    return {
        "q": normal(rng, B, T, s["H"], D),
        "k": normal(rng, B, S, s["G"], D),
        "v": normal(rng, B, S, s["G"], D),
    }


ATTENTION = Op(
    name="attention",
    # Blocks are 128 queries by 128 keys, strips 32 or 16 wide.
    sizes=grid(
        "B T H G D start",
        *((1, 1, 1, 1, 2, 0), (2, 5, 2, 1, 6, 0), (1, 33, 4, 2, 32, 0), (1, 31, 3, 1, 48, 0)),
        *((2, 67, 2, 2, 16, 0), (1, 130, 2, 1, 8, 0), (1, 257, 1, 1, 4, 0), (1, 150, 2, 1, 32, 0)),
        *(
            (1, 7, 2, 1, 6, 13),
            (2, 3, 2, 2, 32, 127),
            (1, 1, 3, 3, 10, 128),
            (1, 140, 2, 1, 4, 121),
        ),
    ),
    inputs=attention_inputs,
    expected=lambda x, s: {
        "out": reference.attention(x["q"], x["k"], x["v"]),
        "lse": reference.log_normaliser(x["q"], x["k"]),
    },
    run=attention_run,
    gradients=("q", "k", "v"),
    # The weights of the keys, and dS, are rounded before they are multiplied.
    bf16_tolerance=2**-7,
    bf16_gradient_tolerance=2**-6,
)


# ---- swiglu ---------------------------------------------------------------------------------------------------


def swiglu_run(b: Buffers, x: Named, s: Sizes, upstream: Array | None) -> tuple[Named, Named]:
    N, hidden = s["N"], s["F"]
    gate_up, out = b.operand(x["gate_up"]), b.operand_output(s["N"], s["F"])
    swiglu_forward(out, gate_up)
    results = {"out": out}
    if upstream is None:
        return results, {}
    dgate_up, again = b.operand_output(N, 2 * hidden), b.operand_output(N, hidden)
    swiglu_backward(dgate_up, again, b.operand(upstream), gate_up)
    results["out again"] = again
    return results, {"gate_up": dgate_up}


def swiglu_expected(x: Named, s: Sizes) -> Named:
    out = reference.swiglu(x["gate_up"][:, : s["F"]], x["gate_up"][:, s["F"] :])
    return {"out": out, "out again": out}


SWIGLU = Op(
    name="swiglu",
    sizes=grid("N F", (1, 1), (3, 7), (2, 32), (31, 33), (5, 127)),
    inputs=lambda rng, s: {"gate_up": 3 * normal(rng, s["N"], 2 * s["F"])},
    expected=swiglu_expected,
    run=swiglu_run,
    gradients=("gate_up",),
)


# ---- cross-entropy --------------------------------------------------------------------------------------------


def cross_entropy_run(
    b: Buffers, x: Named, s: Sizes, upstream: Array | None
) -> tuple[Named, Named]:
    N, V = s["N"], s["V"]
    losses, logits, targets = b.output(N), b.changed(x["logits"]), b.given(x["targets"])
    if upstream is None:
        cross_entropy(losses, logits, logits, targets, F(0.0))
        return {"out": losses}, {}
    same = b.dtype is np.float32 and not s["behind"]
    dlogits = logits if same else b.operand_output(N, V + s["behind"])
    cross_entropy(losses, dlogits, logits, targets, upstream[0])
    assert not dlogits[:, V:].any(), "columns behind V are zero"
    return {"out": losses}, {"logits": dlogits[:, :V]}


CROSS_ENTROPY = Op(
    name="cross-entropy",
    sizes=grid(
        "N V behind", (1, 1, 0), (1, 2, 0), (5, 7, 1), (33, 67, 1), (9, 256, 0), (3, 1031, 5)
    ),
    inputs=lambda rng, s: {
        "logits": 3 * normal(rng, s["N"], s["V"]),
        "targets": rng.integers(-1, s["V"], s["N"], np.int32),
    },
    expected=lambda x, s: {"out": reference.cross_entropy(x["logits"], x["targets"])},
    run=cross_entropy_run,
    gradients=("logits",),
    upstream=lambda rng, out: np.full(out.shape, 0.37, np.float32),
)


# ---- optimizer ------------------------------------------------------------------------------------------------

RECIPE = {"learning_rate": 3e-3, "beta1": 0.9, "beta2": 0.95, "eps": 1e-8, "decay": 0.1}


def adamw_run(b: Buffers, x: Named, s: Sizes, upstream: Array | None) -> tuple[Named, Named]:
    parameters, m, v, gradients = (b.changed(x[name]) for name in ("w", "m", "v", "g"))
    lr, beta1, beta2, eps, decay = RECIPE.values()
    bias1, bias2 = 1 - beta1 ** s["step"], 1 - beta2 ** s["step"]
    scalars = (F(value) for value in (0.5, lr, beta1, beta2, bias1, bias2, eps, decay))
    adamw(parameters, m, v, gradients, s["decayed"], *scalars)
    assert not np.isfinite(x["g"]).all() or not gradients.any(), "gradients become zero"
    return {"out": parameters, "m": m, "v": v}, {}


def adamw_expected(x: Named, s: Sizes) -> Named:
    decayed = np.arange(s["n"]) < s["decayed"]
    after = reference.adamw(x["w"], x["m"], x["v"], 0.5 * x["g"], decayed, step=s["step"], **RECIPE)
    return dict(zip(("out", "m", "v"), after, strict=True))


ADAMW = Op(
    name="adamw",
    # A task takes 16,384 elements.
    sizes=grid(
        "n decayed step", (1, 0, 1), (1, 1, 7), (37, 11, 2), (16385, 16384, 100), (40001, 20000, 9)
    ),
    inputs=lambda rng, s: {
        "w": normal(rng, s["n"]),
        "m": 0.1 * normal(rng, s["n"]),
        "v": 0.1 * rng.random(s["n"], np.float32),
        "g": normal(rng, s["n"]),
    },
    expected=adamw_expected,
    run=adamw_run,
    tolerance=1e-6,
    has_operands=False,
)


def norm_run(b: Buffers, x: Named, s: Sizes, upstream: Array | None) -> tuple[Named, Named]:
    partial = b.output(norm_chunks(s["n"]))
    sum_of_squares(partial, b.given(x["g"]))
    return {"out": np.sqrt(partial.sum(keepdims=True, dtype=np.float64))}, {}


GRADIENT_NORM = Op(
    name="gradient norm",
    sizes=grid("n", (1,), (37,), (16384,), (40001,)),
    inputs=lambda rng, s: {"g": normal(rng, s["n"])},
    expected=lambda x, s: {"out": np.array([reference.gradient_norm(x["g"])])},
    run=norm_run,
    tolerance=1e-6,
    has_operands=False,
)

MUON_RECIPE = {"learning_rate": 0.1, "momentum": 0.9, "decay": 0.1, "rms": 0.2}


def muon_run(b: Buffers, x: Named, s: Sizes, upstream: Array | None) -> tuple[Named, Named]:
    """Three matrices of a flat array, of which two take part."""
    rows, columns = s["rows"], s["columns"]
    n = rows * columns
    parameters, m, gradients = (b.changed(x[name].reshape(-1)) for name in ("w", "m", "g"))
    matrices = b.given(np.array([[2 * n, rows, columns], [n, rows, columns]], np.int64))
    scale, coefficients = monic(NEWTON_SCHULZ)
    scratch = b.operand_output(b.workers, muon_scratch_size(rows, columns))
    lr, momentum, decay, rms = (F(value) for value in MUON_RECIPE.values())
    muon(
        parameters, m, gradients, matrices, b.given(coefficients), scratch, scale, F(0.5), lr, momentum, decay, rms
    )  # fmt: skip
    shape = (3, rows, columns)
    left = gradients.reshape(shape)
    assert np.array_equal(left[0], x["g"][0]), "what takes no part is left alone"
    assert not np.isfinite(x["g"]).all() or not left[1:].any(), "gradients become zero"
    return {"out": parameters.reshape(shape), "m": m.reshape(shape)}, {}


def muon_expected(x: Named, s: Sizes) -> Named:
    w, m = x["w"].copy(), x["m"].copy()
    for i in (1, 2):
        after = reference.muon(w[i], m[i], 0.5 * x["g"][i], **MUON_RECIPE, polynomials=NEWTON_SCHULZ)
        w[i], m[i] = after
    return {"out": w, "m": m}


MUON = Op(
    name="muon",
    sizes=grid("rows columns", (1, 1), (1, 7), (7, 1), (12, 9), (33, 65), (64, 32), (40, 100)),
    inputs=lambda rng, s: {
        "w": normal(rng, 3, s["rows"], s["columns"]),
        "m": 0.1 * normal(rng, 3, s["rows"], s["columns"]),
        "g": normal(rng, 3, s["rows"], s["columns"]),
    },
    expected=muon_expected,
    run=muon_run,
    tolerance=1e-6,
    # A step has a root mean square of 0.02, and an error of about 5 % in bfloat16.
    bf16_tolerance=5e-3,
)

OPS = (
    *(EMBEDDING, RMSNORM, LINEAR, LINEAR_TO_OPERAND, LINEAR_ADD, ROPE, ATTENTION, SWIGLU),
    *(CROSS_ENTROPY, ADAMW, GRADIENT_NORM, MUON),
)
