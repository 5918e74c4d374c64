"""Which characters the terminal can show: Unicode or ASCII, by the locale that was asked for."""

from __future__ import annotations

import os
from collections.abc import Mapping


def ascii_only(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether the locale has no UTF-8. Python's own encoding does not tell: it takes UTF-8 for the C locale too.

    Where nothing is set a terminal of today shows UTF-8, and Python says so itself in LC_CTYPE.
    """
    for name in ("LC_ALL", "LC_CTYPE", "LANG"):
        value = environment.get(name, "")
        if name == "LC_CTYPE" and value == "C.UTF-8" and environment.get("LANG"):
            continue  # Python's own doing, where LANG is C
        if value:
            return "utf" not in value.lower()
    return False
