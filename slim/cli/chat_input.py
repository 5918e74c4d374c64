"""Messages as a person types them, or as lines that another program writes: one line, or several."""

from __future__ import annotations

import contextlib
import sys
from types import ModuleType

from slim.errors import UsageError

PROMPT, GOES_ON = "> ", "... "
QUOTES = '"""'
LONGEST_LINE = 2**23  # bytes; more than the longest context holds in the longest tokens


class MessageReader:
    """Reads messages from stdin. A line that ends in a backslash goes on, and so does what begins with three quotes.

    On a terminal lines are edited and remembered, where Python has readline.
    """

    def __init__(self) -> None:
        self.interactive = sys.stdin is not None and sys.stdin.isatty()
        self._readline = _readline() if self.interactive and sys.stdout.isatty() else None

    def read(self, prefill: str = "") -> str | None:
        """The next message, None at the end of the input. prefill: what stands in the line already."""
        line = self._line(PROMPT, prefill)
        if line is None:
            return None
        if line.lstrip().startswith(QUOTES):
            return self._quoted(line.lstrip()[len(QUOTES) :])
        lines = [line]
        while lines[-1].endswith("\\"):
            lines[-1] = lines[-1][:-1]
            following = self._line(GOES_ON)
            if following is None:
                break
            lines.append(following)
        return "\n".join(lines)

    def can_prefill(self, text: str) -> bool:
        """Whether a line may be given to be edited."""
        return self._readline is not None and "\n" not in text

    def _quoted(self, first: str) -> str:
        """The lines up to the one that ends in three quotes."""
        lines = [first]
        while not lines[-1].rstrip().endswith(QUOTES):
            following = self._line(GOES_ON)
            if following is None:
                return "\n".join(lines)
            lines.append(following)
        lines[-1] = lines[-1].rstrip()[: -len(QUOTES)]
        return "\n".join(lines)

    def _line(self, prompt: str, prefill: str = "") -> str | None:
        """A line without its end; None at the end of the input."""
        if sys.stdin is None:
            return None
        if self._readline is None:
            return self._plain_line(prompt)
        readline = self._readline
        if prefill:
            readline.set_startup_hook(lambda: readline.insert_text(prefill))
        try:
            return input(prompt)
        except EOFError:
            sys.stdout.write("\n")
            return None
        finally:
            readline.set_startup_hook(None)

    def _plain_line(self, prompt: str) -> str | None:
        if self.interactive:
            sys.stderr.write(prompt)
            sys.stderr.flush()
        data = sys.stdin.buffer.readline(LONGEST_LINE + 1)
        if len(data) > LONGEST_LINE:
            while data and not data.endswith(b"\n"):
                data = sys.stdin.buffer.readline(LONGEST_LINE)
            raise UsageError(f"a line is longer than {LONGEST_LINE:,} bytes: shorten it")
        if not data:
            return None
        # As in arguments: bytes that are no UTF-8 are kept.
        return data.removesuffix(b"\n").removesuffix(b"\r").decode("utf-8", "surrogateescape")


def _readline() -> ModuleType | None:
    with contextlib.suppress(ImportError):  # not every Python has it
        import readline

        return readline
    return None
