"""How much memory there is, and what is said when a run would need more."""

from __future__ import annotations

import os
from pathlib import Path

from slim.errors import ConfigError

USABLE_SHARE = 0.8  # of what is available
PROGRAM_BYTES = 240_000_000  # Python, NumPy, Numba and the compiled kernels
_CGROUPS = Path("/sys/fs/cgroup")
# Where a control group says what it may use and what it uses, by version 2 and by version 1.
_LIMIT_FILES = (
    ("memory.max", "memory.current"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes"),
)
_NO_LIMIT = 2**60
_FILE_CACHE = (
    "inactive_file",
    "active_file",
)  # counts as used, but is given up when memory is short


def check_fits(
    needed: int,
    n_parameters: int,
    advice: str = "choose a smaller --preset, --batch-tokens or --seq-len",
) -> None:
    """ConfigError when a run that needs so many bytes would not fit."""
    available = available_bytes()
    if available is not None and needed > USABLE_SHARE * available:
        raise ConfigError(
            f"this needs about {needed / 1e9:,.1f} GB of memory, but {USABLE_SHARE:.0%} of what is "
            f"available is {USABLE_SHARE * available / 1e9:,.1f} GB: {advice} "
            f"(the model has {n_parameters:,} parameters)"
        )


def available_bytes() -> int | None:
    """Memory that this process can still get, None where nobody tells."""
    found = [size for size in (_free_memory(), _left_to_container()) if size is not None]
    if found:
        return min(found)
    try:  # macOS only tells how much is built in
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return None


def _free_memory() -> int | None:
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    return None


def _left_to_container() -> int | None:
    """The least that the limits of the control groups around this process leave."""
    left = []
    for folder in _own_groups():
        for limit, used in _LIMIT_FILES:
            try:
                most = int((folder / limit).read_text(encoding="ascii"))  # "max" is no number
                if most < _NO_LIMIT:
                    now = int((folder / used).read_text(encoding="ascii"))
                    left.append(most - max(0, now - _file_cache(folder)))
            except (OSError, ValueError):
                continue
    return max(0, min(left)) if left else None


def _file_cache(folder: Path) -> int:
    lines = (folder / "memory.stat").read_text(encoding="ascii").splitlines()
    return sum(int(line.split()[1]) for line in lines if line.split()[0] in _FILE_CACHE)


def _own_groups() -> set[Path]:
    """The folders of this process's memory groups and of all above; in a container the root is its own."""
    folders = {_CGROUPS, _CGROUPS / "memory"}
    try:
        lines = Path("/proc/self/cgroup").read_text(encoding="ascii").splitlines()
    except (OSError, ValueError):
        return folders
    for line in lines:  # "0::/path" by version 2, "4:memory:/path" by version 1
        _, controllers, path = line.split(":", 2)
        if controllers not in ("", "memory") or ".." in path:
            continue
        root = _CGROUPS / controllers
        own = root / path.lstrip("/")
        folders |= {own, *(parent for parent in own.parents if parent.is_relative_to(root))}
    return folders
