"""Compiling on several cores: everything is compiled once, by whoever is there; what was there before is not spoken of."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from numba.core import config as numba_config

ROOT = Path(__file__).parents[1]
BEGINNING = """
import os, signal, subprocess
from slim import compiling
from slim.compiling import is_cached, warm_up
from slim.kernels.table import kernels_of
quick = "adamw embedding_backward embedding_forward measure_rows rmsnorm_forward rope sum_of_squares swiglu_forward"
kernels = [entry for entry in kernels_of("fp32", True) if entry[0].py_func.__name__ in quick.split()]
assert len(kernels) == 8
compiling.usable_cores = lambda: 2
started = []
class Popen(subprocess.Popen):
    def __init__(self, *arguments, **settings):
        super().__init__(*arguments, **settings)
        started.append(self)
subprocess.Popen = Popen
def told():
    return [(event.done, event.total) for event in warm_up(kernels)]
def compiled_here():
    return sum(sum(kernel.stats.cache_misses.values()) for kernel, _ in kernels)
"""

pytestmark = pytest.mark.skipif(numba_config.DISABLE_JIT, reason="nothing is compiled")


def run(code: str, folder: Path, **changes: str) -> None:
    environment = {**os.environ, "SLIM_CACHE_DIR": str(folder), **changes}
    done = subprocess.run(
        [sys.executable, "-c", BEGINNING + code],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_two_processes_share_the_work_and_a_second_run_has_none(tmp_path: Path) -> None:
    run(
        """
events = told()
assert events[0] == (0, 8) and events[-1] == (8, 8), events
assert len(started) == 1 and started[0].poll() is not None
assert 0 < compiled_here() < 8, compiled_here()
assert all(is_cached(*entry) for entry in kernels)
assert told() == []
""",
        tmp_path,
    )
    run("assert told() == []\nassert not started and compiled_here() == 0", tmp_path)


def test_kernels_of_another_precision_are_not_taken_for_these(tmp_path: Path) -> None:
    run(
        """
other = [entry for entry in kernels_of("bf16", True) if entry[0].py_func.__name__ == "swiglu_forward"]
list(warm_up(other))
assert not any(is_cached(*entry) for entry in kernels)
""",
        tmp_path,
    )


DISTURBED = {
    "cannot be started": "compiling.sys.executable = '/nowhere'",
    "is not Python": "compiling.sys.executable = '/bin/cat'",
    "ends at once": "compiling._environment = lambda: {**os.environ, 'PYTHONHOME': '/nowhere'}",
    "is killed": """
class Killed(Popen):
    def __init__(self, *arguments, **settings):
        super().__init__(*arguments, **settings)
        os.kill(self.pid, signal.SIGKILL)
subprocess.Popen = Killed
""",
}


@pytest.mark.parametrize("way", DISTURBED)
def test_without_the_helper_everything_is_compiled_here(way: str, tmp_path: Path) -> None:
    run(f"{DISTURBED[way]}\nassert told()[-1] == (8, 8)\nassert compiled_here() == 8", tmp_path)


def test_what_a_helper_could_not_keep_is_compiled_here(tmp_path: Path) -> None:
    """As when the disk is full: its process compiles into a cache of its own."""
    elsewhere = tmp_path / "elsewhere"
    run(
        f"""
compiling._environment = lambda: {{**os.environ, "SLIM_CACHE_DIR": {str(elsewhere)!r}}}
events = told()
assert events.count(events[0]) == 1 and compiled_here() == 8, events
""",
        tmp_path / "here",
    )


def test_a_run_that_is_given_up_leaves_no_process(tmp_path: Path) -> None:
    run(
        """
steps = warm_up(kernels)
next(steps)
next(steps)
steps.close()
assert [process.poll() for process in started] != [None]
""",
        tmp_path,
    )
