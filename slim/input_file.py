"""The door for files that somebody was handed: what a path leads to, in words, when it is not ours."""

from __future__ import annotations

import itertools
import os
import stat
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Self

from slim.errors import SlimError
from slim.operating_system import NO_WAITING, READING

MOST_NAMES = 10_000  # of a folder, in which the one that was meant is looked for
HEAD_BYTES = 512  # enough to tell every kind below

_SIGNATURES: tuple[tuple[bytes, str], ...] = (
    (b"PK\x03\x04", "a zip archive (.docx, .odt, .epub and PyTorch's .pt are such archives)"),
    (b"GGUF", "a GGUF model"),
    (b"\x1f\x8b", "gzip-compressed"),
    (b"BZh9", "bzip2-compressed"),
    (b"\xfd7zXZ\0", "xz-compressed"),
    (b"\x28\xb5\x2f\xfd", "zstd-compressed"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (b"Rar!\x1a\x07", "a RAR archive"),
    (b"%PDF-", "a PDF document"),
    (b"{\\rtf", "an RTF document"),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an old Office document"),
    (b"\x89PNG\r\n\x1a\n", "a PNG picture"),
    (b"\xff\xd8\xff", "a JPEG picture"),
    (b"GIF8", "a GIF picture"),
    (b"\x7fELF", "a program"),
    (b"\xcf\xfa\xed\xfe", "a program"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file"),
    (b"PAR1", "a Parquet table"),
    (b"SQLite format 3\0", "an SQLite database"),
    (b"version https://git-lfs", "a Git LFS pointer, not the file itself (`git lfs pull` gets it)"),
    (b"\xff\xfe", "UTF-16 text (`iconv -f utf-16 -t utf-8` converts it)"),
    (b"\xfe\xff", "UTF-16 text (`iconv -f utf-16 -t utf-8` converts it)"),
)


def kind_of(head: bytes) -> str | None:
    """What a file is that begins with `head`, in words that follow "is"; None when nothing is known."""
    for signature, kind in _SIGNATURES:
        if head.startswith(signature):
            if len(signature) == 4 and signature.isalnum() and looks_like_text(head):
                continue  # a text may begin with the word GIF8
            return kind
    if head[257:262] == b"ustar":
        return "a tar archive"
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip()[:15].lower()
    if start.startswith((b"<!doctype html", b"<html")):
        return "an HTML page"
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 2**32:
        return "a safetensors file"
    if head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return "a Python pickle (old PyTorch checkpoints are pickles)"
    return None


def looks_like_text(head: bytes) -> bool:
    """No control characters but white space: text in any encoding whose units are bytes."""
    return all(byte >= 32 or byte in b"\t\n\r\f" for byte in head)


def open_input(path: str | Path, error: type[SlimError]) -> tuple[FileIO, int]:
    """Open a regular, non-empty file to be read without a buffer; the file and its size in bytes.

    Anything else raises `error` at once: a pipe, which would block, is not waited for.
    """
    try:
        fd = os.open(path, READING | NO_WAITING)
    except (OSError, ValueError) as problem:
        name = str(path) or "''"
        raise error(f"{name}: cannot be opened: {reason(problem)}{remedy(path, problem)}") from problem
    try:
        status = os.fstat(fd)
        if stat.S_ISDIR(status.st_mode):
            raise error(f"{path}: is a folder, but one file is needed")
        if not stat.S_ISREG(status.st_mode):
            raise error(f"{path}: is a pipe or a device: save what it holds to a file first")
        if status.st_size == 0:
            raise error(f"{path}: is empty: give a file that holds something")
        return FileIO(fd, "rb"), status.st_size
    except BaseException:
        os.close(fd)
        raise


class OpenedFile:
    """A file that is being read, for a class that knows its layout; `error` says what is wrong with it."""

    error: type[SlimError] = SlimError

    def __init__(self, path: str | Path) -> None:
        self.path = path
        self._file, self.size_bytes = open_input(path, self.error)

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        problem: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _fill(self, view: memoryview) -> None:
        """Read on until `view` is full."""
        while view:
            count = self._file.readinto(view)
            if not count:
                raise self.error(f"{self.path}: became shorter while it was being read")
            view = view[count:]


def typed_path(text: str | Path) -> Path:
    """A path as somebody typed it: ~ is the home folder, ~NAME that of a user; a name like any other where there is none."""
    path = Path(text)
    try:
        return path.expanduser()
    except RuntimeError:
        return path


def reason(problem: Exception) -> str:
    """The operating system's words for what went wrong, in lower case like the rest of the line."""
    words = getattr(problem, "strerror", None) or str(problem)
    return words[:1].lower() + words[1:]


def remedy(path: str | Path, problem: Exception) -> str:
    """What to do about a path that cannot be opened, in words that follow the reason; nothing where that says enough."""
    if isinstance(problem, PermissionError):
        return ": make it readable first"
    return where_to_look(Path(path)) if isinstance(problem, FileNotFoundError) else ""


def where_to_look(path: Path) -> str:
    """What may be meant by a path where nothing is, in words that follow that."""
    import difflib

    try:
        with os.scandir(path.parent) as entries:
            names = [entry.name for entry in itertools.islice(entries, MOST_NAMES)]
    except OSError:
        return f": check the path: there is no folder {path.parent}"
    likest = difflib.get_close_matches(path.name, names, 1, 0.75)
    return f": did you mean {path.with_name(likest[0])}?" if likest else ": check the path"
