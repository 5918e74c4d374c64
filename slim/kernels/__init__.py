"""Numba kernels: the only code that does arithmetic on weights and activations.

Dimension letters used in every shape line:
    B batch   T time   C channels (= dim)   H query heads   G key/value heads   D head size   F hidden
    V vocabulary   L layers   S cache length   N rows (= B*T)

The write contract: a kernel returns nothing and writes into buffers it is given. `out =` is overwritten, `dweight +=`
is accumulated; everything else is only read. Each `prange` iteration owns what it writes and float sums run in index
order over fixed chunks, so the bytes of a result do not depend on the number of threads.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import platform
import stat
import tempfile
from pathlib import Path

# Forcing the narrow path (tests, and fair benchmarks against an AVX2 rival) also keeps LLVM from using wider vectors
# in ordinary loops, which it decides when Numba is first imported.
if os.environ.get("SLIM_LANES") == "8" and platform.machine() in ("x86_64", "AMD64"):
    os.environ.setdefault("NUMBA_CPU_NAME", "haswell")
    os.environ.setdefault("NUMBA_CPU_FEATURES", "")

# OpenMP threads that wait for each other spin for milliseconds. Beside a second program that computes, a training step took
# more than ten times as long. After 10,000 turns, a tenth of a millisecond, the two share the cores evenly, and a thread that
# waits for the next kernel is still awake: to wake it takes 80 us on some machines, which with 1,000 turns was 6 % of a step.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")

import llvmlite
import numba
import numba.core.dispatcher
import platformdirs
from numba.core import config as numba_config
from numba.core.caching import FunctionCache, IndexDataCacheFile


def _source_digest() -> str:
    """Name of this exact code on this exact machine: Numba's own cache key sees one source file only."""
    digest = hashlib.sha256()
    for source in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(source.name.encode() + b"\0" + source.read_bytes() + b"\0")
    from llvmlite import binding

    from slim.kernels.amx import (
        HAS_AMX,  # which the system can refuse to this process: then code with it would end it
    )

    cpu = binding.get_host_cpu_name() + binding.get_host_cpu_features().flatten()
    settings = (os.environ.get(name, "") for name in ("SLIM_LANES", "SLIM_AMX", "SLIM_CHECKED"))
    for part in (numba.__version__, llvmlite.__version__, cpu, str(HAS_AMX), *settings):
        digest.update(part.encode() + b"\0")
    return digest.hexdigest()[:16]


def _private(folder: Path) -> bool:
    """Create `folder` for us alone; False when somebody else could have put code there."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = folder.lstat()
        if not stat.S_ISDIR(status.st_mode):
            return False
        if hasattr(os, "getuid") and (status.st_uid != os.getuid() or status.st_mode & 0o022):
            return False
        return os.access(folder, os.W_OK | os.X_OK)
    except OSError:
        return False


def _choose_cache_folder() -> Path | None:
    """The first usable of: SLIM_CACHE_DIR, the user's cache directory, a private temporary folder."""
    chosen = os.environ.get("SLIM_CACHE_DIR")
    candidates = [Path(chosen)] if chosen else [Path(platformdirs.user_cache_dir("slim"))]
    digest = _source_digest()
    for candidate in candidates:
        folder = candidate / f"kernels-{digest}"
        if _private(folder):
            return folder
    try:
        user = os.getuid() if hasattr(os, "getuid") else 0
        folder = Path(tempfile.gettempdir()) / f"slim-kernels-{user}-{digest}"
        return folder if _private(folder) else None
    except OSError:
        return None


CACHE_FOLDER: Path | None = _choose_cache_folder()
if CACHE_FOLDER is not None:
    numba_config.CACHE_DIR = str(CACHE_FOLDER)
# LLVM's third level makes steps and tokens no faster than the second does, and takes an eighth longer to compile.
if "NUMBA_OPT" not in os.environ:
    numba_config.OPT = type(numba_config.OPT)(2)

DIGEST_BYTES = hashlib.sha256().digest_size


class _CheckedFiles(IndexDataCacheFile):
    """Numba's index and machine code of one kernel, a digest behind each: a damaged file is as good as none."""

    @contextlib.contextmanager
    def _open_for_write(self, filepath):
        content = io.BytesIO()
        yield content
        with super()._open_for_write(filepath) as file:
            file.write(content.getvalue() + hashlib.sha256(content.getvalue()).digest())

    def _load_index(self):
        try:
            return super()._load_index() if _is_intact(self._index_path) else {}
        except Exception:  # intact, and yet not what this Numba writes: the next kernel begins a new one
            return {}

    def _load_data(self, name):
        if not _is_intact(self._data_path(name)):
            raise OSError("damaged")  # which Numba takes for a file that is gone: it compiles, and writes a new one
        return super()._load_data(name)


def _is_intact(path: str) -> bool:
    try:
        content = Path(path).read_bytes()
    except OSError:
        return False
    return hashlib.sha256(content[:-DIGEST_BYTES]).digest() == content[-DIGEST_BYTES:]


class _KernelCache(FunctionCache):
    """A cache that never stands in the way: what it cannot read is compiled, what it cannot write is not kept."""

    def __init__(self, py_func):
        super().__init__(py_func)
        locator, name = self._impl.locator, self._impl.filename_base
        self._cache_file = _CheckedFiles(locator.get_cache_path(), name, locator.get_source_stamp())

    def holds(self, sig, target_context) -> bool:
        """Whether there is code for a signature; whether it is intact shows when it is loaded."""
        target_context.refresh()
        return self._index_key(sig, target_context.codegen()) in self._cache_file._load_index()

    def load_overload(self, sig, target_context):
        try:
            return super().load_overload(sig, target_context)
        except Exception:  # an intact file that this Numba cannot make sense of
            return None

    def save_overload(self, sig, data):
        with contextlib.suppress(OSError):
            super().save_overload(sig, data)


def _cache_of(py_func):
    return (_KernelCache if py_func.__module__.startswith("slim.") else FunctionCache)(py_func)


numba.core.dispatcher.FunctionCache = _cache_of

# NaN must stay visible, so no `nnan`; sums must keep their order, so no `reassoc`.
FAST_MATH = {"nsz", "arcp", "contract", "afn"}
# In a reduction named as such the order of the sum is free (it is still the same machine code in every thread).
FAST_SUM = FAST_MATH | {"reassoc"}

# SLIM_CHECKED=1 compiles every kernel serially with bounds checks: one of the three ways the kernel tests run.
CHECKED = os.environ.get("SLIM_CHECKED") == "1"

SERIAL = {
    "nogil": True,
    "no_cfunc_wrapper": True,  # nothing in C calls them
    "fastmath": FAST_MATH,
    "error_model": "numpy",
    "boundscheck": CHECKED,
    "cache": CACHE_FOLDER is not None,
}
PARALLEL = {**SERIAL, "parallel": not CHECKED}
# Parts of kernels: compiled into each, so a cache entry of their own would never be read.
INSIDE = {**SERIAL, "cache": False}
INSIDE_SUM = {**INSIDE, "fastmath": FAST_SUM}
