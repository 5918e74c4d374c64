"""Keeps Python's garbage collector from holding up the screen.

Compiled kernels and screens are hundreds of thousands of objects that stay until the end. A full collection looks at
every one of them: 80 to 140 ms in which no key is answered, and it comes again and again. So what has outlived a
collection that took long is left out of the following ones. What is no longer referred to is still given back at once;
only circles among what was left out stay, and those are small.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Mapping

LONG_SECONDS = 0.010
_OLDEST = 2  # generation


class Collector:
    """Watches the collections from `begin` to `end`."""

    def __init__(self) -> None:
        self._began = 0.0

    def begin(self) -> None:
        """From here on no long collection comes twice."""
        gc.callbacks.append(self._notice)

    def end(self) -> None:
        """Everything is collected again, as before."""
        if self._notice in gc.callbacks:
            gc.callbacks.remove(self._notice)
            gc.unfreeze()

    def settle(self) -> None:
        """Collect now, when nobody waits, and leave out what stays."""
        gc.collect()
        gc.freeze()

    def _notice(self, phase: str, info: Mapping[str, int]) -> None:
        if info["generation"] < _OLDEST:
            return
        if phase == "start":
            self._began = time.perf_counter()
        elif time.perf_counter() - self._began > LONG_SECONDS:
            gc.freeze()
