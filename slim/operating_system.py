"""What not every operating system has, in one place: file locks, flags of open files, signals, memory in use, permissions.

Every other module imports on any system. Where something is missing, what is said of each name holds.
"""

from __future__ import annotations

import ctypes
import os
import platform
import signal
import sys
from types import ModuleType

fcntl: ModuleType | None
resource: ModuleType | None
try:
    import fcntl
except ImportError:  # Windows
    fcntl = None
try:
    import resource
except ImportError:
    resource = None

# Flags of os.open, 0 where they are missing.
CLOSE_ON_EXEC: int = getattr(os, "O_CLOEXEC", 0)
NO_WAITING: int = getattr(os, "O_NONBLOCK", 0)
NO_LINKS: int = getattr(os, "O_NOFOLLOW", 0)
FOLDER: int = getattr(os, "O_DIRECTORY", 0)
BINARY: int = getattr(os, "O_BINARY", 0)
READING = os.O_RDONLY | BINARY | CLOSE_ON_EXEC

# What asks a process to end, as far as the system knows them.
STOP_SIGNALS: tuple[signal.Signals, ...] = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)

# What a shell sends for ctrl+z, and what comes when a stopped process may go on; None where there are none.
SUSPEND_SIGNAL: signal.Signals | None = getattr(signal, "SIGTSTP", None)
CONTINUE_SIGNAL: signal.Signals | None = getattr(signal, "SIGCONT", None)


def lock(fd: int) -> None:
    """Lock an open file until it is closed. BlockingIOError when another process has it locked; OSError.

    Without such locks nothing happens.
    """
    if fcntl is not None:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)


def core_count() -> int:
    """The cores that this process is bound to, else all there are."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def peak_memory_bytes() -> int | None:
    """The most memory that this process has had at a time; None where nobody tells."""
    if resource is None:
        return None
    peak: int = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def drop_pages(mapped: object) -> None:
    """Let go of the parts of a mapped file (mmap.mmap) that are in this process's memory; they come back when read."""
    import mmap

    if isinstance(mapped, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        mapped.madvise(mmap.MADV_DONTNEED)


def permit_tile_registers() -> bool:
    """Ask that this process may use the tile registers of Intel's AMX, for which threads need more room; whether it may."""
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        return False
    arch_prctl, request_permission, tile_data = 158, 0x1023, 18  # ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
    try:
        return ctypes.CDLL(None).syscall(arch_prctl, request_permission, tile_data) == 0
    except (OSError, AttributeError):
        return False
