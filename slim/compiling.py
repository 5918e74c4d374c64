"""Compiling kernels before they are needed, on several cores: Numba compiles one at a time in a process.

Other processes of Python take kernels from the same queue and leave the code in the cache, from where this one loads it.
They are a help and no more: where none can be started, or one is lost, this process compiles what is left.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from slim.compute import usable_cores
from slim.events import Progress

Entry = tuple[Any, Any]  # a kernel (Numba's dispatcher) and a signature
# A kernel and all its signatures: its file in the cache has one writer.
Task = tuple[Any, list[Any]]

MOST_PROCESSES = 4
KERNELS_EACH = 4  # that are worth a process, which needs a second to start
_LOOK_SECONDS = 0.25


def warm_up(kernels: Sequence[Entry]) -> Iterator[Progress]:
    """Compile kernels or load them; progress only where something is compiled."""
    # Nothing is left for the second round, if what helpers compiled could be kept.
    for most_helpers in (MOST_PROCESSES - 1, 0):
        tasks: dict[Any, list[Any]] = {}
        for kernel, signature in kernels:
            if not is_cached(kernel, signature):
                tasks.setdefault(kernel, []).append(signature)
        for done in _compile(list(tasks.items()), most_helpers):
            yield Progress("compiling kernels", done, len(tasks))
    for kernel, signature in kernels:
        kernel.compile(signature)


def is_cached(kernel: Any, signature: Any) -> bool:
    """Whether this process or the cache has the code of a kernel."""
    from slim.kernels import CACHE_FOLDER

    kept = CACHE_FOLDER is not None and kernel._cache.holds(signature, kernel.targetctx)
    return kept or signature in kernel.overloads


def _compile(tasks: Sequence[Task], most_helpers: int) -> Iterator[int]:
    """How many are done, each time that it has become more."""
    if not tasks:
        return
    yield 0
    waiting, done = deque(tasks), 0
    finished: list[Task] = []
    helpers = [
        _Helper(waiting, finished) for _ in range(min(_count_helpers(len(tasks)), most_helpers))
    ]
    try:
        while len(finished) < len(tasks):
            try:
                kernel, signatures = task = waiting.popleft()
            except IndexError:  # what is missing is in the hands of a helper
                for helper in helpers:
                    helper.thread.join(_LOOK_SECONDS)
            else:
                for signature in signatures:
                    kernel.compile(signature)
                finished.append(task)
            if len(finished) > done:
                done = len(finished)
                yield done
    finally:
        for helper in helpers:
            helper.end()


def _count_helpers(tasks: int) -> int:
    from slim.kernels import CACHE_FOLDER

    if CACHE_FOLDER is None or not sys.executable:
        return 0
    return max(min(usable_cores(), tasks // KERNELS_EACH) - 1, 0)


class _Helper:
    """A process that compiles, and a thread that gives it work."""

    def __init__(self, waiting: deque[Task], finished: list[Task]) -> None:
        self._waiting, self._finished = waiting, finished
        self._process: subprocess.Popen[bytes] | None = None
        self._ended = False
        self.thread = threading.Thread(target=self._run, name="slim-compiling", daemon=True)
        self.thread.start()

    def end(self) -> None:
        """Whatever it is at."""
        self._ended = True
        if self._process is not None:
            self._process.kill()
        self.thread.join()

    def _run(self) -> None:
        # In a session of its own: Ctrl-C is for this process, which ends the other.
        pipe = subprocess.PIPE
        command = [sys.executable, "-P", "-c", "from slim.compiling import serve; serve()"]
        with contextlib.suppress(OSError):
            process = subprocess.Popen(
                command, env=_environment(), stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, start_new_session=True
            )  # fmt: skip
            self._process = process
            if self._ended:
                process.kill()
            with contextlib.suppress(BrokenPipeError), process:
                self._give(process)

    def _give(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdin is not None and process.stdout is not None
        while True:
            try:
                kernel, signatures = task = self._waiting.popleft()
            except IndexError:
                return
            order = json.dumps([_name(kernel, signature) for signature in signatures])
            try:
                process.stdin.write(order.encode() + b"\n")
                process.stdin.flush()
                answered = process.stdout.read(1)
            except OSError:
                answered = b""
            if not answered:
                self._waiting.appendleft(task)
                return
            self._finished.append(task)


def _environment() -> dict[str, str]:
    """That of this process, and where its SLiM is."""
    paths = [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}


def serve() -> None:
    """Of a helper's process: compile what it reads, kernels of the table by name; a byte for each, until there is no more."""
    from slim.kernels.table import kernels_of

    precisions = ("fp32", "bf16", "int8")
    known = {_name(*entry): entry for kind in precisions for entry in kernels_of(kind, True)}
    with open(0, encoding="utf-8") as orders, open(1, "wb", buffering=0) as answers:
        for order in orders:
            for name in json.loads(order):
                kernel, signature = known[name]
                kernel.compile(signature)
            answers.write(b".")


def _name(kernel: Any, signature: Any) -> str:
    return f"{kernel.py_func.__name__}{signature}"
