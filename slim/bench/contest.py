"""Processes that take turns: each prepares, proves what it computes, and then measures when it is called.

All contestants of a contest are alive together, and exactly one of them works at a time. Every round calls each of them
once, beginning with another one than the round before, so that whatever the machine does meanwhile meets all of them. A
ratio is taken within a round; what is reported is the median of the rounds.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from types import TracebackType
from typing import IO

from slim.bench.job import Job, Measured, Part, Ready, measured_from, ready_from, write_job
from slim.demo_text import PACKAGE
from slim.errors import SlimError

RIVALS = Path(__file__).parent / "rivals"
OUR_OWN = ("GOMP_SPINCOUNT", "10000")  # slim.kernels sets it, for the process that it is in


def own_command(module: str, *arguments: str) -> list[str]:
    """A module of this SLiM in a process of its own, whatever lies in the current folder."""
    return [sys.executable, "-P", "-m", module, *arguments]


def _rival_environment() -> dict[str, str]:
    """The environment without what we have set in it for ourselves."""
    return {key: value for key, value in os.environ.items() if (key, value) != OUR_OWN}


def own_environment() -> dict[str, str]:
    """The environment in which such a process finds the SLiM that is running here."""
    paths = [str(PACKAGE.parent), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}


class BenchError(SlimError):
    """A measuring process failed, or computes something else than it should."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A contestant before it starts: its name, program, job and environment."""

    name: str
    job: Job
    rival: str = ""  # a program of RIVALS; none: SLiM itself
    environment: tuple[tuple[str, str], ...] = ()

    def command(self, job_file: Path) -> list[str]:
        """What to start."""
        if self.rival:
            return [sys.executable, str(RIVALS / self.rival), str(job_file)]
        return own_command("slim.cli.bench_worker", str(job_file))


class Contestant:
    """A running process of an Entry. `ready` is what it said after preparing."""

    def __init__(self, entry: Entry, folder: Path) -> None:
        self.entry = entry
        job_file = Path(tempfile.mkstemp(suffix=".json", dir=folder)[1])
        write_job(job_file, entry.job)
        self._errors: IO[bytes] = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 closed by close()
        self._process = subprocess.Popen(
            entry.command(job_file),
            env={
                **(_rival_environment() if entry.rival else own_environment()),
                **dict(entry.environment),
            },
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            encoding="utf-8",
        )
        try:
            self.ready: Ready = ready_from(self._line())
        except BaseException:
            self.close()
            raise

    def measure(self) -> Measured:
        """One measurement; nothing else of the contest runs meanwhile."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write("\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._failure() from None
        return measured_from(self._line())

    def close(self) -> None:
        """Let it go, at once."""
        self._process.kill()
        self._process.communicate()
        self._errors.close()

    def __enter__(self) -> Contestant:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _line(self) -> str:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("{"):  # whatever else a library thinks it should print
                return line
        raise self._failure()

    def _failure(self) -> BenchError:
        self._process.wait()
        self._errors.seek(0)
        said = self._errors.read().decode(errors="replace").strip().splitlines()
        reason = said[-1].strip() if said else f"it ended with exit code {self._process.returncode}"
        return BenchError(f"{self.entry.name} could not be measured: {reason}")


@dataclass(frozen=True, slots=True)
class Spread:
    """The median of the rounds, and the lowest and highest of them."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Of one number a round."""
        return cls(median(values), min(values), max(values))


@dataclass(frozen=True, slots=True)
class Result:
    """What a contestant showed: its numbers, one a round, by the name that says their unit."""

    name: str
    about: str
    rounds: dict[str, tuple[float, ...]]
    peak_memory_bytes: int | None
    parts: tuple[Part, ...]


def contest(
    entries: Sequence[Entry],
    rounds: int,
    folder: Path,
    check: Callable[[Entry, Ready], None] = lambda entry, ready: None,
    start: Callable[[Entry, Path], Contestant] = Contestant,
) -> Iterator[str | dict[str, Result]]:
    """Yield a line about what happens, again and again, and at last the results by name.

    check raises when what an entry has computed is not right; nothing is timed before all have passed.
    """
    values: dict[str, dict[str, list[float]]] = {entry.name: {} for entry in entries}
    memory: dict[str, int | None] = {}
    parts: dict[str, tuple[Part, ...]] = {}
    with ExitStack() as stack:
        contestants = []
        for entry in entries:
            yield f"preparing {entry.name}"
            contestant = stack.enter_context(start(entry, folder))
            check(entry, contestant.ready)
            contestants.append(contestant)
        for number in range(rounds):
            yield f"round {number + 1} of {rounds}: " + ", ".join(e.name for e in entries)
            first = number % len(contestants)
            for contestant in (*contestants[first:], *contestants[:first]):
                name = contestant.entry.name
                measured = contestant.measure()
                for key, numbers in measured.values.items():
                    values[name].setdefault(key, []).append(median(numbers))
                memory[name] = measured.peak_memory_bytes
                parts[name] = measured.parts
        yield {
            contestant.entry.name: Result(
                contestant.entry.name,
                contestant.ready.about,
                {key: tuple(row) for key, row in values[contestant.entry.name].items()},
                memory.get(contestant.entry.name),
                parts.get(contestant.entry.name, ()),
            )
            for contestant in contestants
        }


def ratio(ours: Result, theirs: Result, key: str) -> Spread:
    """How many times faster we are by a number of seconds: theirs over ours, round by round."""
    pairs = zip(theirs.rounds[key], ours.rounds[key], strict=True)
    return Spread.of([their / our for their, our in pairs])


def environment(variables: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """Variables as an Entry holds them."""
    return tuple(sorted(variables.items()))
