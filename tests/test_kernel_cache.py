"""Compiled kernels on disk: whatever happens to them or to their folder, a kernel runs and gives the right number."""

from __future__ import annotations

import hashlib
import os
import pickle
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

USE = """
import numpy as np
from slim.kernels import CACHE_FOLDER
from slim.kernels.adamw import sum_of_squares
partial = np.empty(1, np.float32)
sum_of_squares(partial, np.arange(4, dtype=np.float32))
assert partial[0] == 14
print(CACHE_FOLDER, sum(sum_of_squares.stats.cache_hits.values()))
"""


def start(folder: Path, temporary: Path) -> subprocess.Popen[str]:
    skipped = ("NUMBA_DISABLE_JIT", "SLIM_CHECKED", "SLIM_LANES")
    environment = {k: v for k, v in os.environ.items() if k not in skipped}
    environment |= {"SLIM_CACHE_DIR": str(folder), "TMPDIR": str(temporary)}
    command = [sys.executable, "-W", "error", "-c", USE]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, env=environment, stdout=pipe, stderr=pipe, text=True)


def use(folder: Path, temporary: Path) -> tuple[Path, int]:
    """Run a kernel in a new process: the folder it chose, and how many kernels came from there."""
    process = start(folder, temporary)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    chosen, hits = out.split()
    return Path(chosen), int(hits)


def flip_a_bit(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "one bit": flip_a_bit,
    "cut": lambda content: content[: len(content) // 2],
    "empty": lambda content: b"",
}


def test_kernels_are_kept_in_a_private_folder(tmp_path: Path) -> None:
    folder, hits = use(tmp_path / "cache", tmp_path)
    assert hits == 0 and folder.parent == tmp_path / "cache"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert use(tmp_path / "cache", tmp_path) == (folder, 1)
    for suffix in ("nbi", "nbc"):
        for damage in DAMAGE.values():
            damaged = list(folder.rglob(f"sum_of_squares*.{suffix}")) or list(
                folder.rglob(f"*sum_of_squares*.{suffix}")
            )
            assert damaged
            for path in damaged:
                path.write_bytes(damage(path.read_bytes()))
            assert use(tmp_path / "cache", tmp_path) == (folder, 0), "damage is noticed"
            assert use(tmp_path / "cache", tmp_path) == (folder, 1), "and mended"


def test_a_folder_that_others_can_write_is_not_used(tmp_path: Path) -> None:
    private, _ = use(tmp_path / "cache", tmp_path)
    private.chmod(0o777)
    chosen, _ = use(tmp_path / "cache", tmp_path)
    assert chosen.parent == tmp_path


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root gives files away"
)
def test_a_folder_of_somebody_else_is_not_used(tmp_path: Path) -> None:
    private, _ = use(tmp_path / "cache", tmp_path)
    os.chown(private, 12345, 12345)
    chosen, _ = use(tmp_path / "cache", tmp_path)
    assert chosen.parent == tmp_path


def test_where_no_folder_can_be_made_a_temporary_one_is_used(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    chosen, _ = use(tmp_path / "file", tmp_path)
    assert chosen.parent == tmp_path


def seal(content: bytes) -> bytes:
    """As the cache seals its files."""
    return content + hashlib.sha256(content).digest()


def test_intact_files_that_make_no_sense_are_compiled_anew(tmp_path: Path) -> None:
    """Right digests over garbage, over a pickle of something else, and files that have changed places."""
    folder, _ = use(tmp_path / "cache", tmp_path)
    index, data = (next(iter(folder.rglob(f"*sum_of_squares*.{kind}"))) for kind in ("nbi", "nbc"))
    good = index.read_bytes(), data.read_bytes()
    for bad in (
        (seal(b"garbage"), good[1]),
        (seal(pickle.dumps(["no", "index"])), good[1]),
        (good[0], seal(pickle.dumps(None))),
        (good[1], good[0]),
    ):
        index.write_bytes(bad[0])
        data.write_bytes(bad[1])
        assert use(tmp_path / "cache", tmp_path)[1] == 0, "compiled"
    assert use(tmp_path / "cache", tmp_path)[1] == 1, "and kept again"


def test_a_folder_that_may_only_be_read_stands_in_nobodys_way(tmp_path: Path) -> None:
    private, _ = use(tmp_path / "cache", tmp_path)
    for path in [*private.rglob("*"), private]:
        path.chmod(0o500 if path.is_dir() else 0o400)
    chosen, hits = use(tmp_path / "cache", tmp_path)
    # Root may write nevertheless; anybody else gets a temporary folder.
    assert (chosen, hits) == (private, 1) if os.geteuid() == 0 else chosen.parent == tmp_path


def test_a_link_to_a_folder_is_not_followed(tmp_path: Path) -> None:
    private, _ = use(tmp_path / "cache", tmp_path)
    elsewhere = tmp_path / "elsewhere"
    private.rename(elsewhere)
    private.symlink_to(elsewhere)
    chosen, _ = use(tmp_path / "cache", tmp_path)
    assert chosen.parent == tmp_path and chosen != elsewhere


def test_processes_that_compile_at_once(tmp_path: Path) -> None:
    processes = [start(tmp_path / "cache", tmp_path) for _ in range(2)]
    for process in processes:
        _, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
    assert use(tmp_path / "cache", tmp_path)[1] == 1
