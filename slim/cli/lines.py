"""Lines for a person, broken between words where they go to a terminal; elsewhere a line stays a line."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterable
from typing import TextIO

from slim.safe_text import safe_text

NARROWEST = 20  # columns: a terminal that says it has fewer is not believed
USUAL = 80


def columns_of(stream: TextIO) -> int | None:
    """How wide the terminal is that a stream goes to, `COLUMNS` where that is set; None where it goes elsewhere."""
    if not stream.isatty():
        return None
    columns = 0
    with contextlib.suppress(KeyError, ValueError):
        columns = int(os.environ["COLUMNS"])
    if columns <= 0:
        with contextlib.suppress(OSError, ValueError):
            columns = os.get_terminal_size(stream.fileno()).columns
    return max(columns or USUAL, NARROWEST)


def say(text: str, *, marked: bool = False) -> None:
    """A line, or several, on stderr. marked: it is safe for a terminal already, with marks of ours in it."""
    line = text if marked else safe_text(text)
    columns = columns_of(sys.stderr)
    if columns is None:
        sys.stderr.write(line + "\n")
    else:
        _wrap(line, sys.stderr.write, columns, 0)
    sys.stderr.flush()


def write_rows(rows: Iterable[tuple[str, str]]) -> None:
    """Names and what is to be said of each, in two columns on stdout."""
    rows = [(safe_text(name), safe_text(text)) for name, text in rows]
    width = max((len(name) for name, _ in rows), default=0) + 2
    columns = columns_of(sys.stdout)
    for name, text in rows:
        if columns is None or columns < width + NARROWEST:
            sys.stdout.write(f"{name:<{width}}{text}\n")
            continue
        pieces: list[str] = []
        _wrap(text, pieces.append, columns, width)
        sys.stdout.write(f"{name:<{width}}" + "".join(pieces).removeprefix(" " * width))


def writer_of(stream: TextIO) -> tuple[Callable[[str], object], Callable[[], None]]:
    """What takes text for a stream piece by piece, and what is called at its end: on a terminal words stay whole."""
    columns = columns_of(stream)
    if columns is None:
        return stream.write, lambda: None
    from slim.cli.wrapped import WrappedText

    page = WrappedText(stream.write, columns)
    return page.push, page.flush


def _wrap(text: str, write: Callable[[str], object], columns: int, indent: int) -> None:
    from slim.cli.wrapped import WrappedText

    page = WrappedText(write, columns, indent)
    page.push(text)
    page.flush()
    write("\n")
