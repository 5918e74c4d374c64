"""What this computer is: the processor's name, its cores and its caches."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from pathlib import Path

from slim import operating_system
from slim.compute import usable_cores

_CPU = Path("/sys/devices/system/cpu/cpu0/cache")
_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30}


@dataclass(frozen=True, slots=True)
class Machine:
    """The processor as the operating system describes it; a cache of 0 bytes is one that nobody tells of."""

    processor: str
    cores: int
    l2_bytes: int
    l3_bytes: int
    system: str
    python: str


def describe_machine() -> Machine:
    """The machine that this process runs on."""
    caches = cache_bytes(_CPU)
    return Machine(
        processor=_processor_name(),
        cores=usable_cores(),
        l2_bytes=caches.get(2, 0),
        l3_bytes=caches.get(3, 0),
        system=f"{platform.system()} {platform.machine()}",
        python=platform.python_version(),
    )


def cache_bytes(folder: Path) -> dict[int, int]:
    """Size of the data cache of each level, from Linux's description of one core."""
    sizes: dict[int, int] = {}
    for index in sorted(folder.glob("index*")):
        try:
            kind, level, size = (
                (index / name).read_text(encoding="ascii").strip()
                for name in ("type", "level", "size")
            )
            if kind != "Instruction":
                unit = _UNITS.get(size[-1:], 1)
                sizes[int(level)] = int(size.rstrip("KMG")) * unit
        except (OSError, ValueError):
            continue
    return sizes


def peak_memory_bytes() -> int | None:
    """The most memory that this process has had at a time, None where nobody tells."""
    try:
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    return operating_system.peak_memory_bytes()


def _processor_name() -> str:
    try:
        for line in (
            Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        ):
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
