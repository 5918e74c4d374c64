"""What is compiled: the kernels of the table and no others, few of them, each in one form, with no float64 inside.

A float64 in a float32 kernel is usually a literal without np.float32: it halves the speed and nothing shows it.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numba import jit, njit, prange, types
from numba.core import config as numba_config

from slim.kernels.table import kernels_of
from tiny_models import PRECISIONS

ROOT = Path(__file__).parents[2]
MOST_KERNELS = 25
# Instructions that compute in float64. Comparing two sizes as float64 is what Numba makes of uint64 against int64, and
# scalars come from Python through PyFloat_AsDouble.
FLOAT64 = re.compile(r"= (tail |notail )?(fadd|fsub|fmul|fdiv|frem|fneg|fpext|call)\b.*\bdouble\b")
FROM_PYTHON = re.compile(r"@PyFloat_(AsDouble|FromDouble)")

pytestmark = pytest.mark.skipif(numba_config.DISABLE_JIT, reason="nothing is compiled")

# A run in a process of its own: training, validation, samples, calibration, then text from what came of it, one after
# the other and several at once. It prints every kernel with a cache of its own, and the forms it was compiled in.
EVERYTHING = """
import json, sys
import numpy as np
from numba.core.caching import NullCache
from numba.core.dispatcher import Dispatcher
from slim import recipe, run
from slim.config import GenerateConfig
from slim.generate import generate
from slim.model_file import load_model
from slim.request import Request
from slim.settings import Settings

folder, precision = sys.argv[1:]
recipe.CALIBRATION_SECONDS = 0.1, 0.1
with open(folder + "/text", "w") as file:
    file.write("<|endoftext|>".join(f"The fox saw {n} birds and sang to them.\\n" * 4 for n in range(60)))
settings = {
    **{"dim": 32, "n_layers": 2, "n_heads": 4, "n_kv_heads": 2, "hidden_dim": 48, "max_seq_len": 64},
    **{"vocab_size": 280, "batch_tokens": 64, "seq_len": 16, "max_steps": 6, "accumulate": 2},
    **{"eval_every": 3, "sample_every": 3, "sample_tokens": 4, "precision": precision},
}
list(run.start(Request("pretrain", folder + "/text", 9.0, folder + "/m", settings=Settings(settings))))
model, tokenizer, _ = load_model(folder + "/m", precision)
for config in (GenerateConfig(max_tokens=9), GenerateConfig(max_tokens=9, temperature=0.0, top_k=5, min_p=0.1)):
    list(generate(model, tokenizer, "The fox", config))
cache = model.new_cache(rows=3)
model.decode_rows(cache, np.zeros(3, np.int32))
found = {}
for name, module in list(sys.modules.items()):
    for kernel in vars(module).values() if name.startswith("slim.kernels") else ():
        if isinstance(kernel, Dispatcher) and not isinstance(kernel._cache, NullCache) and kernel.signatures:
            found[f"{kernel.py_func.__module__}.{kernel.py_func.__name__}"] = [
                str(signature) for signature in kernel.signatures
            ]
print(json.dumps(found))
"""


def forms(precision: str) -> dict[str, set[str]]:
    """The kernels of the table, with the signatures that it names for this precision."""
    found: dict[str, set[str]] = {}
    for kernel, signature in kernels_of(precision, training=True):
        name = f"{kernel.py_func.__module__}.{kernel.py_func.__name__}"
        found.setdefault(name, set()).add(str(signature))
    return found


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_run_compiles_what_the_table_says_and_nothing_else(
    precision: str, tmp_path: Path
) -> None:
    environment = {k: v for k, v in os.environ.items() if k != "SLIM_CHECKED"}
    done = subprocess.run(
        [sys.executable, "-c", EVERYTHING, str(tmp_path), precision],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    compiled = {name: set(found) for name, found in json.loads(done.stdout).items()}
    of_tokenizer = {name for name in compiled if re.search(r"\.(bpe\w*|pretokenize)\.", name)}
    assert all(len(compiled[name]) == 1 for name in of_tokenizer)
    of_model = {name: found for name, found in compiled.items() if name not in of_tokenizer}
    assert of_model == forms(precision)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_kernels_are_few_and_each_has_one_form(precision: str) -> None:
    table = forms(precision)
    assert sum(map(len, table.values())) <= MOST_KERNELS
    for name, signatures in table.items():
        # With bfloat16 operands a product and a loss gradient are float32 in one place and bfloat16 in another.
        twice = precision == "bf16" and name.endswith((".matmul", ".cross_entropy"))
        assert len(signatures) == 1 + twice, name
        assert "float64" not in "".join(signatures), name


def float64_lines(llvm: str) -> list[str]:
    """Lines that compute in float64."""
    return [
        line.strip()
        for line in llvm.splitlines()
        if FLOAT64.search(line) and not FROM_PYTHON.search(line)
    ]


def compiled_anew(kernel: Any, signature: Any) -> str:
    """The code of a kernel, optimized and linked. For one from the cache Numba has none."""
    again = jit(**kernel.targetoptions)(kernel.py_func)
    again.compile(signature)
    (llvm,) = again.inspect_llvm().values()
    return llvm


# Those that compile in a second or two: most literals are in them.
QUICK = ("adamw", "swiglu_backward", "cross_entropy")


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", [*QUICK, pytest.param("", marks=pytest.mark.soak, id="all")])
def test_no_kernel_computes_in_float64(name: str, precision: str) -> None:
    chosen = [
        (kernel, signature)
        for kernel, signature in kernels_of(precision, training=True)
        if name in ("", kernel.py_func.__name__)
    ]
    assert chosen
    for kernel, signature in chosen:
        assert float64_lines(compiled_anew(kernel, signature)) == [], kernel.py_func.__name__


@njit(parallel=True)
def slip(x):  # type: ignore[no-untyped-def]
    for i in prange(len(x)):
        x[i] = 0.1 * x[i]


@njit(parallel=True)
def right(x):  # type: ignore[no-untyped-def]
    for i in prange(len(x)):
        x[i] = np.float32(0.1) * x[i]


def test_a_literal_that_is_float64_is_found() -> None:
    """The control: the slip that this file is there for."""
    signature = (types.Array(types.float32, 1, "C"),)
    assert float64_lines(compiled_anew(slip, signature))
    assert not float64_lines(compiled_anew(right, signature))
