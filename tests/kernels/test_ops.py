"""Every op of the table against float64: results, gradients, the write contract, the same bytes from any threads.

Gradients are compared with central differences of the reference, which has no backward pass.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping

import numpy as np
import pytest
from numba.core import config as numba_config

from buffers import Buffers, as_float, rounded
from op_table import OPS, Array, Named, Op, Sizes
from slim.kernels.tile import HAS_BF16

FINITE_DIFFERENCE = 1e-5
ENTRIES = 12  # of each input whose gradient is checked one by one, in the fast tier
SOAK_ENTRIES = 100
ROUNDING = 2.0**-8  # relative, of a bfloat16: half of its last place
PRECISIONS = {"fp32": np.float32, "bf16": np.uint16}


def cases() -> Iterator[tuple[Op, Sizes, str]]:
    for op in OPS:
        for sizes in op.sizes:
            # Without the compiler a case takes long: only the tiny ones.
            if (
                numba_config.DISABLE_JIT
                and np.prod([max(size, 1) for size in sizes.values()]) > 1e4
            ):
                continue
            yield op, sizes, "fp32"
            even = not any(sizes[name] % 2 for name in op.even_in_bf16)
            if HAS_BF16 and op.has_operands and even:
                yield op, sizes, "bf16"


CASES = list(cases())
IDS = [
    f"{op.name}-{'-'.join(f'{k}{v}' for k, v in sizes.items())}-{precision}".replace(" ", "_")
    for op, sizes, precision in CASES
]
every_case = pytest.mark.parametrize(("op", "sizes", "precision"), CASES, ids=IDS)
differentiable = [
    i for i, (op, sizes, _) in enumerate(CASES) if op.gradients and not sizes.get("start")
]
every_gradient = pytest.mark.parametrize(
    ("op", "sizes", "precision"),
    [CASES[i] for i in differentiable],
    ids=[IDS[i] for i in differentiable],
)


def draw(op: Op, sizes: Sizes, precision: str) -> tuple[Named, Array]:
    """Inputs and an upstream gradient, made bfloat16 when operands are."""
    seed = zlib.crc32(f"{op.name} {sorted(sizes.items())}".encode())
    rng = np.random.default_rng(seed)
    inputs = op.inputs(rng, sizes)
    upstream = op.upstream(rng, op.expected(in_float64(inputs), sizes)["out"])
    if precision == "bf16":
        upstream = rounded(upstream)
        inputs = {k: rounded(v) if v.dtype == np.float32 else v for k, v in inputs.items()}
    return inputs, upstream


def in_float64(inputs: Named) -> Named:
    return {k: v.astype(np.float64) if v.dtype == np.float32 else v for k, v in inputs.items()}


def assert_close(found: Array, expected: Array, tolerance: float, scale: float) -> None:
    """Each element within tolerance * scale, and that of an operand in bfloat16 within one rounding more."""
    assert found.shape == expected.shape
    allowed = tolerance * scale + (ROUNDING * np.abs(expected) if found.dtype == np.uint16 else 0.0)
    excess = np.abs(as_float(found) - expected) / np.maximum(allowed, 1e-30)
    worst = np.unravel_index(excess.argmax(), excess.shape)
    assert excess[worst] <= 1.0, f"{excess[worst]:.3g} times the tolerance at {worst}"


def rms(x: Array) -> float:
    return float(np.sqrt(np.mean(np.square(x, dtype=np.float64))))


def assert_results(op: Op, results: Mapping[str, Array], expected: Named, precision: str) -> None:
    tolerance = op.tolerance if precision == "fp32" else op.bf16_tolerance
    for name in expected.keys() & results.keys():
        assert_close(results[name], expected[name], tolerance, rms(expected[name]))


@every_case
def test_forward_equals_the_reference(op: Op, sizes: Sizes, precision: str) -> None:
    inputs, _ = draw(op, sizes, precision)
    buffers = Buffers(PRECISIONS[precision])
    results, _ = op.run(buffers, inputs, sizes, None)
    buffers.assert_only_read()
    assert_results(op, results, op.expected(in_float64(inputs), sizes), precision)


@every_gradient
def test_gradients_are_the_slopes_of_the_reference(op: Op, sizes: Sizes, precision: str) -> None:
    check_gradients(op, sizes, precision, ENTRIES)


@pytest.mark.soak
@every_gradient
def test_many_gradients_are_the_slopes_of_the_reference(
    op: Op, sizes: Sizes, precision: str
) -> None:
    check_gradients(op, sizes, precision, SOAK_ENTRIES)


def check_gradients(op: Op, sizes: Sizes, precision: str, entries: int) -> None:
    inputs, upstream = draw(op, sizes, precision)
    buffers = Buffers(PRECISIONS[precision])
    results, gradients = op.run(buffers, inputs, sizes, upstream)
    buffers.assert_only_read()
    exact = in_float64(inputs)
    assert_results(op, results, op.expected(exact, sizes), precision)
    if "dx_operand" in results:  # the sum in dx, as an operand
        whole = gradients["x"] + 1
        assert_close(results["dx_operand"], whole, 1e-6, rms(whole))
    assert set(gradients) == set(op.gradients)
    tolerance = op.gradient_tolerance if precision == "fp32" else op.bf16_gradient_tolerance
    rng = np.random.default_rng(1)
    for name in op.gradients:
        gradient, values = gradients[name], exact[name]
        assert gradient.shape == values.shape
        assert np.isfinite(as_float(gradient)).all()
        chosen = rng.choice(values.size, min(entries, values.size), replace=False)
        slopes = np.array([slope(op, exact, sizes, upstream, name, i) for i in chosen])
        # Never less than 1e-2: terms may cancel, and accumulators held ones.
        scale = max(rms(as_float(gradient)), rms(slopes), 1e-2)
        assert_close(gradient.reshape(-1)[chosen], slopes, tolerance, scale)


def slope(op: Op, inputs: Named, sizes: Sizes, upstream: Array, name: str, index: int) -> float:
    """d sum(upstream * out) / d one element, by a central difference."""
    results = []
    for step in (FINITE_DIFFERENCE, -FINITE_DIFFERENCE):
        moved = inputs[name].copy()
        moved.reshape(-1)[index] += step
        results.append(op.expected({**inputs, name: moved}, sizes)["out"])
    return float(np.sum(upstream * (results[0] - results[1])) / (2 * FINITE_DIFFERENCE))


@every_case
def test_any_number_of_workers_gives_the_same_bytes(op: Op, sizes: Sizes, precision: str) -> None:
    inputs, upstream = draw(op, sizes, precision)
    found = set()
    for workers in (1, 2, 3, 5):
        results, gradients = op.run(
            Buffers(PRECISIONS[precision], workers), inputs, sizes, upstream
        )
        found.add(b"".join(array.tobytes() for array in (*results.values(), *gradients.values())))
    assert len(found) == 1


@every_case
def test_a_nan_stays_visible(op: Op, sizes: Sizes, precision: str) -> None:
    """Not one is swallowed by a maximum, a mask or a rounding: what depends on a NaN is a NaN."""
    inputs, _ = draw(op, sizes, precision)
    if "targets" in inputs:
        inputs["targets"][:] = 0
    for name, values in inputs.items():
        if values.dtype != np.float32:
            continue
        poisoned = values.copy()
        poisoned.reshape(-1)[values.size // 2] = np.nan
        if name == "table":
            poisoned[inputs["tokens"][0]] = np.nan
        with np.errstate(invalid="ignore"):
            results, _ = op.run(
                Buffers(PRECISIONS[precision]), {**inputs, name: poisoned}, sizes, None
            )
        assert np.isnan(as_float(results["out"])).any(), f"a NaN in {name} is lost"
