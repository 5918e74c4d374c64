"""Saving: at every moment, and whatever fails, the name leads to the old bytes or to the new ones."""

from __future__ import annotations

import errno
import os
import random
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from slim import atomic_file
from slim.atomic_file import check_writable, replace_file, sweep
from slim.checkpoint import read, write
from slim.errors import ModelFileError, SaveError

OLD, NEW = b"old" * 1000, b"new!" * 2000
CALLS = ("open", "write", "fsync", "close", "link", "unlink", "replace", "lstat", "fchmod",
         "scandir", "kill")  # fmt: skip


@pytest.fixture
def target(tmp_path: Path) -> Path:
    (tmp_path / "model.bin").write_bytes(OLD)
    return tmp_path / "model.bin"


def temporaries(folder: Path) -> list[str]:
    return [name for name in os.listdir(folder) if name.endswith(".slim-tmp")]


def test_a_new_file(tmp_path: Path) -> None:
    chunks = (part for part in (b"", NEW[:5], memoryview(NEW[5:])))
    assert replace_file(tmp_path / "new", chunks) == len(NEW)
    assert (tmp_path / "new").read_bytes() == NEW
    assert os.listdir(tmp_path) == ["new"]
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o666 & ~umask


def test_an_old_file_keeps_its_permissions(target: Path) -> None:
    target.chmod(0o640)
    replace_file(target, [NEW])
    assert target.read_bytes() == NEW and stat.S_IMODE(target.stat().st_mode) == 0o640
    assert os.listdir(target.parent) == ["model.bin"]


def test_previous_is_kept_on_demand(target: Path) -> None:
    previous = target.with_name("model.bin.prev")
    for contents, before in ((b"1", OLD), (b"2", b"1"), (b"3", b"2")):
        replace_file(target, [contents], keep_previous=True)
        assert target.read_bytes() == contents and previous.read_bytes() == before
    replace_file(target, [b"4"])
    assert previous.read_bytes() == b"2"


def test_no_previous_where_there_was_nothing(tmp_path: Path) -> None:
    replace_file(tmp_path / "new", [NEW], keep_previous=True)
    assert os.listdir(tmp_path) == ["new"]


def test_a_link_is_followed(target: Path) -> None:
    link = target.with_name("link")
    link.symlink_to(target.name)
    replace_file(link, [NEW])
    assert link.is_symlink() and target.read_bytes() == NEW


def test_a_long_name(tmp_path: Path) -> None:
    for name in ("m" * 255, "é" * 127):
        replace_file(tmp_path / name, [NEW])
        assert (tmp_path / name).read_bytes() == NEW


@pytest.mark.parametrize("save", [lambda path: replace_file(path, [NEW]), check_writable])
def test_where_nothing_can_be_saved(tmp_path: Path, save: Callable[[Path], None]) -> None:
    with pytest.raises(SaveError, match=r"there is no folder .*/missing"):
        save(tmp_path / "missing" / "model.bin")
    with pytest.raises(SaveError, match="it is a folder"):
        save(tmp_path)
    with pytest.raises(SaveError, match="pipe or a device"):
        save(Path("/dev/null"))
    (tmp_path / "file").write_bytes(OLD)
    with pytest.raises(SaveError, match="no folder"):
        save(tmp_path / "file" / "model.bin")
    with pytest.raises(SaveError, match="file name too long"):
        save(tmp_path / ("m" * 256))
    assert os.listdir(tmp_path) == ["file"] and stat.S_ISCHR(os.stat("/dev/null").st_mode)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written(target: Path) -> None:
    target.parent.chmod(0o500)
    try:
        for save in (check_writable, lambda path: replace_file(path, [NEW])):
            with pytest.raises(SaveError, match="permission denied"):
                save(target)
    finally:
        target.parent.chmod(0o700)


def test_check_writable_leaves_no_trace(target: Path) -> None:
    before = target.stat()
    check_writable(target)
    check_writable(target.with_name("other"))
    assert os.listdir(target.parent) == ["model.bin"]
    assert target.stat().st_mtime_ns == before.st_mtime_ns and target.read_bytes() == OLD


class Failing:
    """Stands in for `os`: its k-th call fails with `code`, all others are real."""

    def __init__(self, k: int, code: int, calls: tuple[str, ...] = CALLS) -> None:
        self.left, self.code, self.calls, self.failed = k, code, calls, ""

    def __getattr__(self, name: str) -> object:
        real = getattr(os, name)
        if name not in self.calls:
            return real

        def call(*args: object, **options: object) -> object:
            self.left -= 1
            if self.left != 0:
                return real(*args, **options)
            if name == "close":
                real(*args)
            self.failed = name
            raise OSError(self.code, os.strerror(self.code))

        return call


@pytest.mark.parametrize("keep_previous", [False, True])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EACCES, errno.EPERM])
def test_every_call_that_can_fail(
    target: Path, monkeypatch: pytest.MonkeyPatch, code: int, keep_previous: bool
) -> None:
    failed = []
    for k in range(1, 100):
        target.unlink()
        target.write_bytes(OLD)
        fake = Failing(k, code)
        monkeypatch.setattr(atomic_file, "os", fake)
        problem: SaveError | None = None
        try:
            replace_file(target, iter([NEW[:9], NEW[9:]]), keep_previous=keep_previous)
        except SaveError as caught:
            problem = caught
        finally:
            monkeypatch.undo()
        # Only the folder's fsync comes after the new name: nothing could bring the old file back then.
        last = fake.failed == "fsync" and failed.count("fsync") == 1
        assert target.read_bytes() == (NEW if problem is None or last else OLD)
        assert problem is None or os.strerror(code).lower() in str(problem)
        assert temporaries(target.parent) == []
        if not fake.failed:
            break
        failed.append(fake.failed)
    assert failed.count("write") == 2 and failed.count("fsync") == 2 and "replace" in failed
    assert ("link" in failed) == keep_previous


def test_a_file_system_without_hard_links(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(atomic_file, "os", Failing(1, errno.EOPNOTSUPP, ("link",)))
    replace_file(target, [NEW], keep_previous=True)
    assert target.read_bytes() == NEW


def test_short_writes_are_continued(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(atomic_file, "_WRITE_BYTES", 7)
    assert replace_file(target, [NEW]) == len(NEW)
    assert target.read_bytes() == NEW


def test_an_interrupt_in_the_middle(target: Path) -> None:
    def chunks() -> Iterator[bytes]:
        yield NEW
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        replace_file(target, chunks())
    assert target.read_bytes() == OLD and temporaries(target.parent) == []


def test_only_what_dead_writers_left_is_swept(target: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    folder = target.parent
    stale = [
        f".model.bin.{dead.pid}-{'0' * 16}.slim-tmp",
        f".model.bin.{os.getpid()}-{'1' * 16}.slim-tmp",
    ]
    kept = [
        f".model.bin.{os.getppid()}-{'0' * 16}.slim-tmp",
        f".other.{dead.pid}-{'0' * 16}.slim-tmp",
        f".model.bin.{dead.pid}-{'0' * 16}.tmp",
        f"model.bin.{dead.pid}-{'0' * 16}.slim-tmp",
    ]  # fmt: skip
    for name in stale + kept:
        (folder / name).write_bytes(b"x")
    assert sweep(target) == 2
    assert sorted(os.listdir(folder)) == sorted([*kept, "model.bin"])


def test_a_living_writer_is_not_disturbed(target: Path) -> None:
    """Even one whose process id looks dead, as in another container, or is our own."""
    written, swept = threading.Event(), threading.Event()

    def chunks() -> Iterator[bytes]:
        yield NEW[:10]
        written.set()
        swept.wait(10)
        yield NEW[10:]

    writer = threading.Thread(target=replace_file, args=(target, chunks()))
    writer.start()
    assert written.wait(10)
    assert sweep(target) == 0 and len(temporaries(target.parent)) == 1
    replace_file(target, [b"in between"])
    assert target.read_bytes() == b"in between"
    swept.set()
    writer.join()
    assert target.read_bytes() == NEW and temporaries(target.parent) == []


SAVE_FOREVER = """
import sys, itertools, numpy as np
from slim.checkpoint import write
arrays = [{"a": np.full(500_000, n, np.float32)} for n in (1, 2)]
def plain(path, n):
    with open(path, "wb") as file:
        for _ in range(500):
            file.write(arrays[n]["a"][:1000].data)
for n in itertools.count():
    if sys.argv[2] == "plain":
        plain(sys.argv[1], n % 2)
    else:
        write(sys.argv[1], arrays[n % 2], {"n": n}, keep_previous=True)
    if n == 1:
        print("ready", flush=True)
"""


def killed_while_saving(path: Path, how: str, delay: float) -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", SAVE_FOREVER, str(path), how], stdout=subprocess.PIPE
    )
    with child:
        assert child.stdout is not None and child.stdout.readline() == b"ready\n"
        time.sleep(delay)
        child.send_signal(signal.SIGKILL)


@pytest.mark.parametrize("count", [6, pytest.param(300, marks=pytest.mark.soak)])
def test_kill_9_loses_nothing(tmp_path: Path, count: int) -> None:
    path, draw = tmp_path / "model.bin", random.Random(3)
    left = 0
    for _ in range(count):
        killed_while_saving(path, "atomic", draw.random() * 0.05)
        for name in ("model.bin", "model.bin.prev"):
            if name == "model.bin" or (tmp_path / name).exists():
                arrays, metadata = read(tmp_path / name)
                assert (arrays["a"] == metadata["n"] % 2 + 1).all()  # type: ignore[operator]
        assert len(temporaries(tmp_path)) <= 1  # each start sweeps what the one before it left
        left += len(temporaries(tmp_path))
    assert left  # or nobody was killed while saving
    write(path, {"a": np.zeros(1, np.float32)}, {})
    assert temporaries(tmp_path) == []


@pytest.mark.soak
def test_kill_9_does_lose_plain_files(tmp_path: Path) -> None:
    """The control: a test that plain writing passes would say nothing about ours."""
    draw, lost = random.Random(3), 0
    for _ in range(30):
        killed_while_saving(tmp_path / "plain", "plain", draw.random() * 0.05)
        lost += (tmp_path / "plain").stat().st_size != 2_000_000
    assert lost > 5
    with pytest.raises(ModelFileError):
        read(tmp_path / "plain")
