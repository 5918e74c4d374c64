"""Which files a person means by a file, a folder, a pattern such as "texts/*.txt", or `-` for standard input."""

from __future__ import annotations

import glob
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from slim.errors import DataError, SaveError, UsageError
from slim.events import Note
from slim.input_file import open_input, reason
from slim.operating_system import BINARY, CLOSE_ON_EXEC

STDIN = "-"
RECORD_SUFFIXES = (".jsonl", ".ndjson")
TEXT_SUFFIXES = (".txt", ".text", ".md")
_FOLDER_SUFFIXES = (*TEXT_SUFFIXES, *RECORD_SUFFIXES)  # what is read of a folder
_WILD = frozenset("*?[")
_CHUNK_BYTES = 2**20


@dataclass(frozen=True, slots=True)
class TextFile:
    """A file of a corpus: where it is, what it is called when something is said of it, its size in bytes."""

    path: str
    name: str
    size: int

    @property
    def holds_records(self) -> bool:
        """Whether its name says that each of its lines is a JSON record."""
        return self.name.lower().endswith(RECORD_SUFFIXES)


def find_files(names: str | Path | Sequence[str | Path]) -> tuple[list[TextFile], list[Note]]:
    """The files that are meant, in the order of their names, and what should be known. DataError when there are none.

    In a folder, and in those within, that is every .txt, .md and .jsonl file whose name does not begin with a dot.
    The work of a training run (OUT.run/) is no text.
    """
    found: list[TextFile] = []
    notes: list[Note] = []
    for name in [names] if isinstance(names, (str, Path)) else names:
        text = os.fspath(name)
        if os.path.isdir(text):
            paths, skipped = _in_folder(text)
            if not paths:
                kinds = ", ".join(_FOLDER_SUFFIXES)
                raise DataError(f"{text}: is a folder without a text: none of its files is {kinds}")
            if skipped:
                some = ", ".join(sorted(skipped)[:3])
                notes.append(
                    Note(
                        f"{text}: other files in it, which are not read: {len(skipped):,} ({some})"
                    )
                )
        elif _WILD & set(text) and not os.path.lexists(text):
            matches = glob.glob(text, recursive=True)
            paths = sorted(path for path in matches if not os.path.isdir(path))
            if not paths:
                raise DataError(f"{text}: no file has such a name")
        else:
            paths = [text]
        found += [_opened(path) for path in paths if len(paths) == 1 or os.path.getsize(path) > 0]
        if len(paths) > 1:
            notes.append(Note(f"{text}: files that are read: {len(paths):,}"))
    return found, notes


def total_size(names: str | Path | Sequence[str | Path]) -> int | None:
    """The bytes of all files that are meant, None when that cannot be said before they are read."""
    if names == STDIN:
        return None
    try:
        return sum(file.size for file in find_files(names)[0])
    except (OSError, DataError):
        return None


def keep_stdin(path: str | Path) -> None:
    """Write all of standard input to a file, because a text is read more than once. UsageError, SaveError."""
    if os.isatty(0):
        raise UsageError("- reads the text from standard input, but that is the keyboard")
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | CLOSE_ON_EXEC | BINARY
    try:
        with os.fdopen(os.open(path, flags, 0o666), "wb", buffering=0) as file:
            while chunk := os.read(0, _CHUNK_BYTES):
                while chunk:
                    chunk = chunk[file.write(chunk) :]
    except OSError as problem:
        raise SaveError(f"{path}: cannot be written: {reason(problem)}") from problem


def stdin_file(path: str | Path) -> TextFile:
    """What `keep_stdin` wrote, under its own name. DataError when there is nothing."""
    name = "standard input"
    try:
        size = os.stat(path).st_size
    except OSError as problem:
        raise DataError(f"{name}: what was kept of it, {path}, is gone") from problem
    if size == 0:
        raise DataError(f"{name}: is empty: give a text")
    return TextFile(str(path), name, size)


@contextmanager
def named_files(names: str | Path) -> Iterator[tuple[list[TextFile], list[Note]]]:
    """`find_files`, and standard input in a temporary file for as long as it is needed."""
    if names != STDIN:
        yield find_files(names)
        return
    with tempfile.TemporaryDirectory(prefix="slim-") as folder:
        path = os.path.join(folder, "stdin")
        keep_stdin(path)
        yield [stdin_file(path)], []


def _opened(path: str) -> TextFile:
    """A file that can be read; DataError names what is wrong with it."""
    file, size = open_input(path, DataError)
    file.close()
    return TextFile(path, path, size)


def _in_folder(folder: str) -> tuple[list[str], list[str]]:
    """Paths of all texts in a folder, sorted, and names of its other files."""
    texts, others = [], []
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(
            name for name in folders if name[:1] != "." and not _is_run(os.path.join(parent, name))
        )
        for name in names:
            if name[:1] == ".":
                continue
            if name.lower().endswith(_FOLDER_SUFFIXES):
                texts.append(os.path.join(parent, name))
            else:
                others.append(name)
    return sorted(texts), others


def _is_run(folder: str) -> bool:
    """Whether a folder is the work of a training run: its journals would be taken for records."""
    return folder.endswith(".run") and os.path.exists(os.path.join(folder, "lock"))
