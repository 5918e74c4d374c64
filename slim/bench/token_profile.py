"""Where the time of a decoded token goes.

A token is one kernel, so it is compiled once more with a matrix product that also reads the processor's cycle counter.
What is not a product with weights is told apart by where the token stands: attention over the cache is what a token
late in a text takes more than one at its beginning. Drawing is what a token takes more when it is drawn.
"""

from __future__ import annotations

import platform
import time
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import njit
from numba import types as numba_types
from numba.extending import intrinsic

from slim import model as model_module
from slim.bench import ceilings, counts
from slim.bench.job import Part
from slim.config import GenerateConfig, ModelConfig
from slim.decoding import draw_tokens
from slim.kernels import SERIAL
from slim.model import Model

TOKEN = "decoded token"
# The kernel of slim.model, what it calls for a share of the rows, and what that multiplies with.
KERNEL, ROWS, PRODUCT = "decode_rows", "_decode", "_multiply"
# Elsewhere a program may not read it.
HAS_CYCLE_COUNTER = platform.machine() in ("x86_64", "AMD64")
Clock = Callable[[], float]
_SHORT = 16  # tokens: a cache that hardly costs anything
_REPEATS = 9


@dataclass(frozen=True, slots=True)
class Matrix:
    """A product with weights: its name, how often a token makes it, and its weights."""

    name: str
    calls: int
    weights: int


def matrices(config: ModelConfig) -> tuple[Matrix, ...]:
    """The products of a token in the order of a layer, and last the head."""
    L, C, F = config.n_layers, config.dim, config.hidden_dim
    qkv = (config.n_heads + 2 * config.n_kv_heads) * config.head_dim
    return (
        Matrix("q, k, v", L, L * C * qkv),
        Matrix("attention out", L, L * C * C),
        Matrix("gate, up", L, L * 2 * F * C),
        Matrix("down", L, L * C * F),
        Matrix("head", 1, config.vocab_size * C),
    )


def profile_token(model: Model, tokens: int, clock: Clock = time.perf_counter) -> Iterator[Part]:
    """The parts of a token in the middle of a text of `tokens`."""
    config, mode = model.config, model.precision
    whole, short, drawn = least_seconds(
        lambda: decode_seconds(model, tokens, clock),
        lambda: decode_seconds(model, min(_SHORT, tokens), clock),
        lambda: draw_seconds(model, tokens, clock),
    )
    size = counts.decode_bytes(config, mode, 0)
    per_weight = size / counts.matrix_parameters(config)
    counted = {1, numba.get_num_threads()}
    rate = max(max(ceilings.read_gb_per_second(int(size), n)) for n in counted)
    attention = max(whole - short, 0.0)
    products = 0.0
    if HAS_CYCLE_COUNTER:
        for matrix, share in zip(matrices(config), product_shares(model, tokens), strict=True):
            products += share * whole
            work = matrix.weights * per_weight
            yield Part(TOKEN, matrix.name, matrix.calls, share * whole, work, "GB/s", rate)
    else:
        products = whole - attention
        yield Part(TOKEN, "products, norms, the rest", 1, products, size, "GB/s", rate)
    cached = counts.decode_bytes(config, mode, tokens / 2) - size
    yield Part(
        *(TOKEN, "attention over the cache", config.n_layers, attention, cached, "GB/s", rate)
    )
    rest = max(whole - products - attention, 0.0)
    yield Part(TOKEN, "norms, RoPE, SwiGLU, the rest", 1, rest)
    yield Part(TOKEN, "drawing, confidence", 1, max(drawn - whole, 0.0))


def product_shares(model: Model, tokens: int) -> list[float]:
    """The share of a token's cycles that each of `matrices` takes."""
    n_products = 4 * model.config.n_layers + 1
    # begun, number of the next product, cycles of each product
    tally = np.zeros(2 + n_products, np.int64)
    kernel = getattr(model_module, KERNEL)
    timed = _with_timed_products(kernel.py_func, tally.ctypes.data)
    shares = []
    setattr(model_module, KERNEL, timed)
    try:
        for _ in range(3):  # the first one compiles
            cache = model.new_cache(tokens)
            model.prefill(cache, np.zeros(1, np.int32))
            cycles, whole = np.zeros(n_products), 0
            for token in range(1, tokens):
                tally[:] = 0
                started = read_cycles()
                model.decode(cache, token)
                whole += read_cycles() - started
                cycles += tally[2:]
            layers = cycles[:-1].reshape(-1, 4).sum(axis=0)
            shares.append([*(layers / whole).tolist(), float(cycles[-1] / whole)])
    finally:
        setattr(model_module, KERNEL, kernel)
    return [float(np.median(column)) for column in zip(*shares[1:], strict=True)]


def _with_timed_products(function: types.FunctionType, tally: int) -> Callable[..., Any]:
    """The kernel with every product adding its cycles to the array at that address, one after the other."""
    begin, end = _noting(tally, True), _noting(tally, False)
    product = function.__globals__[PRODUCT]
    options: dict[str, Any] = {**SERIAL, "cache": False}

    @njit(**options)
    def timed(  # type: ignore[no-untyped-def]
        board, number, first, stop, y, V, w, width, o, o_width, rows8, scales8, panels, layers, head, H, G, D, F
    ):  # fmt: skip
        begin()
        product(
            board, number, first, stop, y, V, w, width, o, o_width, rows8, scales8, panels, layers, head, H, G, D, F
        )  # fmt: skip
        end()

    rows = _copy(function.__globals__[ROWS].py_func, options, {PRODUCT: timed})
    return _copy(function, options, {ROWS: rows})


def _copy(
    function: types.FunctionType, options: dict[str, Any], replaced: dict[str, Any]
) -> Callable[..., Any]:
    """The function compiled once more, with other things under some global names."""
    names = {**function.__globals__, **replaced}
    copy = types.FunctionType(function.__code__, names, function.__name__, function.__defaults__)
    return njit(**options)(copy)


def _noting(tally: int, begins: bool) -> Any:
    """An intrinsic that writes down when a product begins, or how long it took."""

    @intrinsic
    def note(context):  # type: ignore[no-untyped-def]
        def codegen(context, b, signature, arguments):  # type: ignore[no-untyped-def]
            i64 = ir.IntType(64)
            base = b.inttoptr(ir.Constant(i64, tally), i64.as_pointer())
            now = _cycles(b)
            if begins:
                b.store(now, base)
            else:
                counter = b.gep(base, [ir.Constant(i64, 1)])
                number = b.load(counter)
                place = b.gep(base, [b.add(number, ir.Constant(i64, 2))])
                b.store(b.sub(now, b.load(base)), place)
                b.store(b.add(number, ir.Constant(i64, 1)), counter)
            return context.get_dummy_value()

        return numba_types.void(), codegen

    return note


def _cycles(b: Any) -> Any:
    """The processor's cycle counter, as LLVM reads it."""
    function_type = ir.FunctionType(ir.IntType(64), ())
    name = "llvm.readcyclecounter"
    found = b.module.globals.get(name)
    return b.call(ir.Function(b.module, function_type, name) if found is None else found, ())


@intrinsic
def _read_cycles(context):  # type: ignore[no-untyped-def]
    return numba_types.int64(), lambda context, b, signature, arguments: _cycles(b)


@njit
def read_cycles() -> int:
    """The cycle counter."""
    return _read_cycles()


def least_seconds(*measurements: Callable[[], float]) -> list[float]:
    """The least of several results of each, taken in turns: differences of these are looked at."""
    rounds = [[measure() for measure in measurements] for _ in range(_REPEATS)]
    return [min(column) for column in zip(*rounds, strict=True)]


def decode_seconds(model: Model, tokens: int, clock: Clock = time.perf_counter) -> float:
    """The mean time of a token while a cache fills with `tokens`."""
    cache = model.new_cache(tokens)
    model.prefill(cache, np.zeros(1, np.int32))
    model.decode(cache, 1)
    started = clock()
    for token in range(2, tokens):
        model.decode(cache, token)
    return (clock() - started) / (tokens - 2)


def draw_seconds(model: Model, tokens: int, clock: Clock = time.perf_counter) -> float:
    """The same with a token drawn from every distribution and its confidence measured."""
    cache = model.new_cache(tokens)
    draws = draw_tokens(model, cache, np.zeros(1, np.int32), GenerateConfig(), seed=0)
    next(draws)
    next(draws)
    started = clock()
    count = sum(1 for _ in draws)
    return (clock() - started) / count
