"""The tests of the ops again, in processes of their own: other ways to compile, and memory that ends at a wall.

Bounds checks see what Python code indexes; what works on raw pointers is caught by the walls. The fast tier runs a few
cases of every op, `pytest -m soak` all of them.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
# Whatever the suite itself runs under, each mode is one change from production.
SETTINGS = ("NUMBA_DISABLE_JIT", "SLIM_CHECKED", "SLIM_LANES", "SLIM_AMX", "SLIM_TEST_MEMORY")
MODES = {
    "interpreted": {"NUMBA_DISABLE_JIT": "1"},
    "bounds checked": {"SLIM_CHECKED": "1"},
    "8 lanes": {"SLIM_LANES": "8"},
    "no tiles of AMX": {"SLIM_AMX": "0"},
    "before wall": {"SLIM_TEST_MEMORY": "before wall"},
    "behind wall": {"SLIM_TEST_MEMORY": "behind wall"},
}
WALLS_WITH_8_LANES = {"SLIM_LANES": "8", "SLIM_TEST_MEMORY": "before wall"}
# One or two sizes of each op; where there is a wall all of them forward, and the whole model.
FEW = " or ".join(
    [
        *("N7-C5", "N64-C33", "M2-K3", "M7-K17", "M13-K10", "B2-T3-heads5", "B2-T5-H2", "B1-T7-H2"),
        *("N3-F7", "N31-F33", "N5-V7", "n37", "rows7-columns1", "rows33-columns65"),
    ]
)
WALLED = f"forward_equals or softmax or cached or of_the_whole_model or (slopes and ({FEW}))"
MODEL = "logits_equal or of_the_whole_model or cached or learnt_by_heart"
FILES = [
    *(HERE / "test_ops.py", HERE / "test_elementary.py", HERE / "test_int8.py"),
    HERE.parent / "test_sampling.py",
]
WHOLE_MODEL = HERE.parent / "test_model.py"


def run(settings: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if k not in SETTINGS}
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=HERE.parent.parent,
        env={**environment, **settings},
        capture_output=True,
        text=True,
        timeout=3600,
        check=False,
    )


def assert_pass(settings: dict[str, str], *options: str) -> None:
    whole = "SLIM_TEST_MEMORY" in settings or "SLIM_LANES" in settings
    files = [*FILES, WHOLE_MODEL] if whole else FILES
    done = run(
        settings, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *options, *map(str, files)
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]


@pytest.mark.parametrize("mode", MODES)
def test_ops_in_another_mode(mode: str) -> None:
    few = WALLED if "wall" in mode else f"{FEW} or {MODEL}" if "lanes" in mode else FEW
    assert_pass(MODES[mode], "-k", few)


@pytest.mark.soak
@pytest.mark.parametrize("settings", [*MODES.values(), WALLS_WITH_8_LANES], ids=str)
def test_all_ops_in_another_mode(settings: dict[str, str]) -> None:
    assert_pass(settings)


READ_TOO_FAR = """
import numpy as np
from buffers import Buffers
from slim.kernels.matmul import matmul, packed_size, product_scratch_size

b = Buffers()
panels = b.output(packed_size(5, 3, np.float32) - {missing})
matmul(b.output(2, 5), b.output(2, 3), panels, b.output(2, product_scratch_size(np.float32)))
print("survived")
"""


@pytest.mark.parametrize(("missing", "survives"), [(0, True), (1, False)])
def test_a_wall_ends_who_reads_one_number_too_far(missing: int, survives: bool) -> None:
    """The control of this file: without it a wall that is not there would pass every test."""
    script = f"import sys; sys.path.insert(0, {str(HERE)!r})" + READ_TOO_FAR.format(missing=missing)
    done = run({"SLIM_TEST_MEMORY": "before wall"}, "-c", script)
    assert ("survived" in done.stdout) is survives, done.stderr
    assert (done.returncode == 0) is survives
