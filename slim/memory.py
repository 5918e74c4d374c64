"""How much memory a run will take, and how much there is."""

from __future__ import annotations

import os
from pathlib import Path

from slim.config import ModelConfig
from slim.errors import ConfigError

USABLE_SHARE = 0.8  # of what is available
PROGRAM_BYTES = 260_000_000  # Python, NumPy, Numba and the compiled kernels
_CGROUP = Path("/sys/fs/cgroup")


def available_bytes() -> int | None:
    """Memory that this process can still get, None where nobody tells."""
    found = [_meminfo(), _cgroup_left()]
    known = [size for size in found if size is not None]
    if known:
        return min(known)
    try:  # macOS tells how much is built in
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return None


def check_fits(config: ModelConfig, needed: int) -> None:
    """ConfigError when a run that needs so many bytes would not fit."""
    available = available_bytes()
    if available is not None and needed > USABLE_SHARE * available:
        raise ConfigError(
            f"this needs about {needed / 1e9:.1f} GB of memory, but {USABLE_SHARE:.0%} of what is "
            f"available are {USABLE_SHARE * available / 1e9:.1f} GB: choose a smaller --preset, --batch-tokens "
            f"or --seq-len (the model has {config.n_parameters:,} parameters)"
        )


def _meminfo() -> int | None:
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    return None


def _cgroup_left() -> int | None:
    """What a container's limit leaves, by either version of control groups."""
    for limit, used in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        try:
            most = (_CGROUP / limit).read_text(encoding="ascii").strip()
            if most != "max" and int(most) < 2**60:
                return max(0, int(most) - int((_CGROUP / used).read_text(encoding="ascii")))
        except (OSError, ValueError):
            continue
    return None
