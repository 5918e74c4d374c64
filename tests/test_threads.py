"""The same bytes from any number of threads, on either threading layer, every time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from numba.core import config as numba_config

KERNELS = Path(__file__).parent / "kernels"
LAYERS = ("omp", "workqueue")


def hashes_of(layer: str, repeats: int) -> dict[str, list[str]]:
    """What whole tiny models compute on a threading layer, by number of threads; skips where there is no such layer."""
    path = os.pathsep.join([str(KERNELS), str(KERNELS.parents[1])])
    done = subprocess.run(
        [sys.executable, str(KERNELS / "hash_of_models.py"), layer, str(repeats)],
        env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, timeout=1200, check=False,
    )  # fmt: skip
    if "No threading layer could be loaded" in done.stderr:
        pytest.skip(f"there is no {layer} on this machine")
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["layer"] == layer
    return answer["hashes"]


@pytest.mark.skipif(numba_config.DISABLE_JIT, reason="nothing runs in threads")
@pytest.mark.parametrize("repeats", [1, pytest.param(13, marks=pytest.mark.soak)])
def test_threads_layers_and_repeats_give_one_hash(repeats: int) -> None:
    """13 repeats of 4 numbers of threads on 2 layers: 104 times everything that a model computes."""
    found = [hashes_of(layer, repeats) for layer in LAYERS]
    assert [set(hashes) for hashes in found] == [{"1", "2", "3", "4"}] * 2
    assert all(len(several) == repeats for hashes in found for several in hashes.values())
    assert len({one for hashes in found for several in hashes.values() for one in several}) == 1
