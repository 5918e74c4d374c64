"""Replacing a file so that whatever happens, its name leads to the old bytes or to the new ones.

A temporary file in the same folder, fsync, `os.replace`, fsync of the folder. The writer holds a lock on its temporary
file, so that what a killed process left behind can be told from what another one is writing.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import stat
from collections.abc import Iterable
from pathlib import Path

from slim.errors import SaveError
from slim.input_file import reason
from slim.operating_system import CLOSE_ON_EXEC, FOLDER, NO_LINKS, NO_WAITING, READING, lock

PREVIOUS_SUFFIX = ".prev"
_WRITE_BYTES = 2**26  # one system call; Linux takes at most 2 GiB, and Ctrl-C waits for it
# Not every file system knows hard links or the fsync of a folder. A file is whole without them.
_UNSUPPORTED = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)


def replace_file(
    path: str | Path, chunks: Iterable[bytes | memoryview], *, keep_previous: bool = False
) -> int:
    """Make `chunks` the contents of `path`; the number of bytes written. SaveError: nothing changed.

    keep_previous: what `path` led to before stays reachable as `path`.prev, without a copy. A link is followed, and
    permissions are kept.
    """
    target = Path(os.path.realpath(path))
    try:
        sweep(target)
        return _replace(target, chunks, keep_previous)
    except OSError as problem:
        raise _save_error(path, target, problem) from problem


def check_writable(path: str | Path) -> None:
    """SaveError now, before hours of work, where `replace_file` could not write later."""
    target = Path(os.path.realpath(path))
    try:
        sweep(target)
        _permissions(target)
        temporary, fd = _create_temporary(target)
        os.close(fd)
        os.unlink(temporary)
    except OSError as problem:
        raise _save_error(path, target, problem) from problem


def sweep(path: str | Path) -> int:
    """Remove the temporary files of `path` whose writers are dead; how many there were."""
    target = Path(os.path.realpath(path))
    pattern = re.compile(re.escape(_temporary_prefix(target)) + r"(\d{1,9})-[0-9a-f]{16}\.slim-tmp")
    swept = 0
    with contextlib.suppress(OSError), os.scandir(target.parent) as entries:
        for entry in entries:
            match = pattern.fullmatch(entry.name)
            if match and _abandoned(entry.path, int(match[1])):
                os.unlink(entry.path)
                swept += 1
    return swept


def _replace(target: Path, chunks: Iterable[bytes | memoryview], keep_previous: bool) -> int:
    permissions = _permissions(target)
    folder = os.open(target.parent, READING | FOLDER)
    try:
        temporary, fd = _create_temporary(target)
        try:
            size = sum(_write_all(fd, chunk) for chunk in chunks)
            if permissions is not None:
                os.fchmod(fd, permissions)
            os.fsync(fd)
            if keep_previous and permissions is not None:
                _link_previous(target)
            os.replace(temporary, target)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise
        finally:
            with contextlib.suppress(OSError):  # fsync has the last word on what is on the disk
                os.close(fd)
        try:
            os.fsync(folder)
        except OSError as problem:  # the new file is whole; after a power cut it may be the old one
            if problem.errno not in _UNSUPPORTED:
                raise
        return size
    finally:
        with contextlib.suppress(OSError):
            os.close(folder)


def _permissions(target: Path) -> int | None:
    """Permission bits of the file to be replaced, None when there is none yet."""
    try:
        status = os.lstat(target)
    except FileNotFoundError:
        return None
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, "it is a folder")
    if not stat.S_ISREG(status.st_mode):  # replacing /dev/null would break the machine
        raise OSError(errno.EINVAL, "it is a pipe or a device")
    return stat.S_IMODE(status.st_mode) & 0o777


def _create_temporary(target: Path) -> tuple[str, int]:
    name = f"{_temporary_prefix(target)}{os.getpid()}-{secrets.token_hex(8)}.slim-tmp"
    temporary = os.path.join(target.parent, name)
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | CLOSE_ON_EXEC, 0o666)
    with contextlib.suppress(OSError):  # a file system without locks: the process id must do
        lock(fd)
    return temporary, fd


def _temporary_prefix(target: Path) -> str:
    """Hidden, and short enough that a name of 255 bytes can be replaced too."""
    return "." + os.fsencode(target.name)[:160].decode("utf-8", "ignore") + "."


def _abandoned(temporary: str, pid: int) -> bool:
    """Is the writer dead? Its id alone does not tell: in a container another process may have the same."""
    if pid != os.getpid():
        try:
            os.kill(pid, 0)
            return False
        except ProcessLookupError:
            pass
        except (OSError, OverflowError):
            return False
    fd = os.open(temporary, READING | NO_LINKS | NO_WAITING)
    try:
        lock(fd)
        return True
    except OSError:
        return False
    finally:
        os.close(fd)


def _write_all(fd: int, chunk: bytes | memoryview) -> int:
    rest = memoryview(chunk).cast("B")
    size = len(rest)
    while rest:
        rest = rest[os.write(fd, rest[:_WRITE_BYTES]) :]
    return size


def _link_previous(target: Path) -> None:
    previous = os.fspath(target) + PREVIOUS_SUFFIX
    with contextlib.suppress(FileNotFoundError):
        os.unlink(previous)
    try:
        os.link(target, previous)
    except OSError as problem:
        if problem.errno not in _UNSUPPORTED:
            raise


def _save_error(path: str | Path, target: Path, problem: OSError) -> SaveError:
    if not target.parent.is_dir():
        return SaveError(f"{path}: cannot be saved: there is no folder {target.parent}")
    return SaveError(f"{path}: cannot be saved: {reason(problem)}")
