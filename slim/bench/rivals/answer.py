"""How a rival answers: one JSON object a line."""

from __future__ import annotations

import json
from pathlib import Path


def say(**record: object) -> None:
    """Answer, with the memory that this process has had at most."""
    print(json.dumps({**record, "peak_memory_bytes": _peak_memory_bytes()}), flush=True)


def _peak_memory_bytes() -> int | None:
    """None where nobody tells."""
    try:
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return None
