"""The models and runs that the home screen lists: those in a folder, and those that were opened lately."""

from __future__ import annotations

import contextlib
import json
import math
import os
import statistics
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import platformdirs

from slim.atomic_file import replace_file
from slim.errors import DataError, SaveError, SlimError
from slim.events import EvalFinished, StepFinished, from_record
from slim.input_file import open_input, reason
from slim.run_directory import RESULT, SETTINGS, directory_of, read_settings, trainer_of

RECENT = 20  # paths that are remembered
MOST_ENTRIES = 200
TAIL_BYTES = 65_536  # of a journal, which hold its last step
RUN_SUFFIX = ".run"


@dataclass(frozen=True, slots=True)
class Entry:
    """A model, a run or both, as far as their files tell."""

    out: Path  # the model file; its run lies beside it
    state: str  # model | training | stopped | finished | unreadable
    detail: str = ""  # where the run stands, or why it cannot be read
    size_bytes: int = 0
    n_parameters: int = 0
    bits_per_byte: float | None = None
    changed: float = 0.0  # seconds since the epoch
    has_model: bool = False
    has_run: bool = False
    speed: float = 0.0  # tokens per second, the median of its last steps
    precision: str = ""  # of its run


def catalog(folder: Path, recent: Iterable[Path]) -> Iterator[list[Entry]]:
    """One list, the latest first. Reads headers and the ends of journals: a job for the engine thread."""
    outs = dict.fromkeys(path.absolute() for path in (*recent, *_found_in(folder)))
    entries = [entry for out in outs if (entry := describe(out)) is not None]
    entries.sort(key=lambda entry: (entry.state != "training", -entry.changed))
    yield entries[:MOST_ENTRIES]


def _found_in(folder: Path) -> list[Path]:
    """Files that begin like a model, and what run directories belong to, in a folder itself."""
    found = []
    with contextlib.suppress(OSError), os.scandir(folder) as items:
        for item in items:
            path = Path(item.path)
            with contextlib.suppress(OSError):
                if item.name.endswith(RUN_SUFFIX) and item.is_dir():
                    if (path / SETTINGS).is_file() or (path / "lock").is_file():
                        found.append(path.with_name(item.name.removesuffix(RUN_SUFFIX)))
                elif item.is_file() and looks_like_model(path):
                    found.append(path)
            if len(found) >= MOST_ENTRIES:
                break
    return found


def looks_like_model(path: Path) -> bool:
    """Whether a file begins like one of ours."""
    try:
        file, _ = open_input(path, DataError)  # a pipe would never say what it holds
        with file:
            head = file.read(9) or b""
    except (OSError, SlimError):
        return False
    return head[8:9] == b"{" and 0 < int.from_bytes(head[:8], "little") < 2**32


def describe(out: Path) -> Entry | None:
    """What there is of a model and its run, None when there is neither."""
    entry = Entry(out, "model")
    with contextlib.suppress(OSError, ValueError):
        if out.is_file():
            entry = _with_model(entry)
        if directory_of(out).is_dir():
            entry = _with_run(entry)
    return entry if entry.has_model or entry.has_run or entry.state == "unreadable" else None


def _with_model(entry: Entry) -> Entry:
    from slim.checkpoint import read_metadata

    status = entry.out.stat()
    entry = replace(entry, size_bytes=status.st_size, changed=status.st_mtime)
    try:
        metadata, shapes = read_metadata(entry.out)
    except SlimError as problem:
        return replace(entry, state="unreadable", detail=str(problem))
    history = metadata.get("history")
    latest = history[-1] if isinstance(history, list) and history else None
    bits = latest.get("bits_per_byte") if isinstance(latest, dict) else None
    weights = [math.prod(shape) for name, shape in shapes.items() if not name.startswith("slim.")]
    return replace(
        entry,
        has_model=True,
        n_parameters=sum(weights),
        bits_per_byte=float(bits) if isinstance(bits, int | float) else None,
    )


def _with_run(entry: Entry) -> Entry:
    folder = directory_of(entry.out)
    metrics = folder / "metrics.jsonl"
    if metrics.exists():
        entry = replace(entry, changed=max(entry.changed, metrics.stat().st_mtime))
    try:
        settings = read_settings(entry.out)
    except SlimError as problem:
        if trainer_of(entry.out) is not None:
            return replace(entry, state="training", detail="preparing", has_run=True)
        if not (folder / SETTINGS).exists():
            return entry
        return replace(entry, state="unreadable", detail=str(problem), has_run=True)
    step, bits = 0, entry.bits_per_byte
    speeds: list[float] = []
    for event in last_events(metrics):
        if isinstance(event, StepFinished):
            step = event.step
            speeds.append(event.tokens_per_second)
        elif isinstance(event, EvalFinished) and event.best:
            bits = event.bits_per_byte
    total = settings.get("total_steps")
    total = total if isinstance(total, int) and total > 0 else 0
    where = f"step {step:,} of {total:,}"
    if trainer_of(entry.out) is not None:
        state = "training"
    elif (folder / RESULT).exists():
        state, where = "finished", f"{step:,} steps"
    else:
        state = "stopped"
    return replace(
        entry, state=state, detail=where, has_run=True, bits_per_byte=bits,
        speed=statistics.median(speeds) if speeds else 0.0,
        precision=str(settings.get("precision", "")),
    )  # fmt: skip


def last_events(metrics: Path) -> list[object]:
    """The events in the last part of a journal."""
    events: list[object] = []
    with contextlib.suppress(OSError), metrics.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        start = max(0, end - TAIL_BYTES)
        file.seek(start)
        lines = file.read(TAIL_BYTES).split(b"\n")
        for line in lines[1 if start else 0 : -1]:
            with contextlib.suppress(ValueError, RecursionError):
                events.append(from_record(json.loads(line)))
    return events


# ---- what was opened lately ------------------------------------------------------------------------------------------


def recent_file() -> Path:
    """Where the paths are kept."""
    return Path(platformdirs.user_state_dir("slim", appauthor=False)) / "recent.json"


def read_recent() -> list[Path]:
    """The model files that were opened or trained lately, the latest first."""
    try:
        with recent_file().open("rb") as file:
            record = json.loads(file.read(100_000))
    except (OSError, ValueError, RecursionError):
        return []
    paths = record if isinstance(record, list) else []
    return [Path(path) for path in paths[:RECENT] if isinstance(path, str) and "\0" not in path]


def remember(out: Path) -> str | None:
    """Put a path first; what goes wrong with that, in words, for it is no reason to fail."""
    out = out.absolute()
    paths = [out, *(path for path in read_recent() if path != out)][:RECENT]
    try:
        recent_file().parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps([os.fspath(path) for path in paths]) + "\n"
        replace_file(recent_file(), [text.encode("utf-8", "surrogateescape")])
    except OSError as problem:
        return f"{recent_file()}: cannot be written: {reason(problem)}"
    except (SaveError, UnicodeError) as problem:
        return str(problem)
    return None
