"""The log of a run: lines with their time, to be read and copied; the view follows their end as long as that is in view."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from rich.segment import Segment
from rich.style import Style
from textual.geometry import Size
from textual.scroll_view import ScrollView
from textual.selection import Selection
from textual.strip import Strip

from slim.tui.run_view import LOG_LINES, LogLine, RunView
from slim.tui.token_flow import Piece, TokenFlow

TIME_CELLS = 9  # a time and a blank, left of the text


@dataclass(frozen=True, slots=True, eq=False)
class _Entry:
    time: str
    level: str
    flow: TokenFlow


class EventLog(ScrollView, can_focus=True):
    """What happened, the latest last. `show` it a run."""

    ALLOW_SELECT = True
    COMPONENT_CLASSES: ClassVar[set[str]] = {
        "event-log--time", "event-log--info", "event-log--good", "event-log--warning", "event-log--error",
    }  # fmt: skip
    DEFAULT_CSS = """
    EventLog {
        background: $background; color: $foreground; padding: 0 1;
        overflow-x: hidden; overflow-y: scroll; scrollbar-size-vertical: 1;
    }
    EventLog:focus { background: $surface; }
    EventLog > .event-log--time { color: $foreground 65%; }
    EventLog > .event-log--good { color: $success; }
    EventLog > .event-log--warning { color: $warning; }
    EventLog > .event-log--error { color: $error; text-style: bold; }
    """

    def __init__(self, id: str | None = None) -> None:
        super().__init__(id=id)
        self._view: RunView | None = None
        self._version = 0  # of the log, as it was shown last
        self._entries: list[_Entry] = []
        self._rows: list[tuple[_Entry, int]] = []  # an entry and the number of one of its lines
        self._at_end = True  # as it was scrolled last: a log that becomes lower does not leave its end by that

    @property
    def text(self) -> str:
        """All of it, a line for each entry."""
        return "\n".join(f"{entry.time} {entry.flow.text}" for entry in self._entries)

    def show(self, view: RunView) -> None:
        """Add what is new of a run; all of it where it is another one."""
        if view is not self._view:
            self._view, self._version = view, 0
            self._entries, self._rows = [], []
            self.scroll_home(animate=False, immediate=True)
        fresh = min(view.log_version - self._version, len(view.log))
        width = self._text_width
        if fresh <= 0 or width < 1:
            return
        self._version = view.log_version
        followed, y = self._at_end, self.scroll_offset.y
        for line in list(view.log)[-fresh:]:
            entry = _entry(line, width)
            self._entries.append(entry)
            self._rows += [(entry, number) for number in range(len(entry.flow.lines))]
        gone = self._drop_oldest()
        self._resized(followed, y - gone)
        if gone and self.text_selection is not None:
            self.screen.clear_selection()

    def _drop_oldest(self) -> int:
        """No more entries than a run keeps; the number of rows that went."""
        rows = sum(len(entry.flow.lines) for entry in self._entries[: -LOG_LINES])
        del self._entries[: -LOG_LINES]
        del self._rows[:rows]
        return rows

    @property
    def _text_width(self) -> int:
        return self.scrollable_content_region.width - TIME_CELLS

    def watch_scroll_y(self, old_value: float, new_value: float) -> None:
        """Whoever scrolls, leaves the end or comes back to it."""
        super().watch_scroll_y(old_value, new_value)
        self._at_end = self.is_vertical_scroll_end

    def _resized(self, followed: bool, y: int) -> None:
        self.virtual_size = Size(0, len(self._rows))
        if followed:
            self.scroll_end(animate=False, immediate=True, x_axis=False)
        else:
            self.scroll_to(y=max(y, 0), animate=False, immediate=True)
        self.refresh()

    def on_resize(self) -> None:
        """Lines are broken again for another width; what is at the top stays there."""
        if self._view is not None and not self._entries:
            self.show(self._view)
        followed, y = self._at_end, self.scroll_offset.y
        top = self._rows[y][0] if y < len(self._rows) else None
        changed = [entry.flow.layout(self._text_width) for entry in self._entries]
        if any(changed):
            self._rows = [(one, number) for one in self._entries for number in range(len(one.flow.lines))]
            y = next((i for i, (entry, _) in enumerate(self._rows) if entry is top), 0)
            if self.text_selection is not None:
                self.screen.clear_selection()
        self._resized(followed, y)

    # ---- what is drawn and copied ----------------------------------------------------------------------------------

    def render_line(self, y: int) -> Strip:
        """A line of the screen."""
        width, base = self.size.width, self.rich_style
        y += self.scroll_offset.y
        if y >= len(self._rows):
            return Strip.blank(width, base)
        entry, number = self._rows[y]
        style = self.get_component_rich_style(f"event-log--{entry.level}", partial=True)
        parts = [
            (_time_shown(entry, number), self.get_component_rich_style("event-log--time", partial=True)),
            (entry.flow.lines[number].shown, style),
        ]
        span = None if self.text_selection is None else self.text_selection.get_span(y)
        chosen = self.screen.get_component_rich_style("screen--selection") if span else Style()
        segments, at = [], 0
        for text, part in parts:
            for start, end, inside in _cut(at, at + len(text), span):
                place = Style.from_meta({"offset": (start, y)})
                segments.append(Segment(text[start - at : end - at], base + part + (chosen if inside else Style()) + place))
            at += len(text)
        return Strip(segments).adjust_cell_length(width, base)

    def selection_updated(self, selection: Selection | None) -> None:
        """Text was selected with the mouse."""
        self.refresh()

    def get_selection(self, selection: Selection) -> tuple[str, str] | None:
        """The selected text, without the blanks and the breaks that are only shown."""
        first = (0, 0) if selection.start is None else selection.start.transpose
        last = (len(self._rows), 0) if selection.end is None else selection.end.transpose
        out = []
        for y in range(first[0], min(last[0], len(self._rows) - 1) + 1):
            entry, number = self._rows[y]
            line = entry.flow.lines[number]
            start = first[1] if y == first[0] else 0
            end = last[1] if y == last[0] else TIME_CELLS + len(line.shown)
            if number == 0:
                out.append(_time_shown(entry, 0)[start:end].lstrip())
            out.append(line.source_between(max(start - TIME_CELLS, 0), max(end - TIME_CELLS, 0)))
            if number == len(entry.flow.lines) - 1 and y < last[0]:
                out.append("\n")
        return "".join(out).rstrip("\n"), "\n"


def _entry(line: LogLine, width: int) -> _Entry:
    flow = TokenFlow(width)
    flow.append([Piece(" ".join(line.text.split("\n")))])
    return _Entry(line.when, line.level, flow)


def _time_shown(entry: _Entry, number: int) -> str:
    return f"{entry.time:>{TIME_CELLS - 1}} " if number == 0 else " " * TIME_CELLS


def _cut(start: int, end: int, span: tuple[int, int] | None) -> list[tuple[int, int, bool]]:
    """The parts of a run before, inside and after a selected span, whose end of -1 is that of the line."""
    first, last = (end, end) if span is None else (span[0], end if span[1] < 0 else span[1])
    edges = (start, min(max(first, start), end), min(max(last, start), end), end)
    cuts = zip(edges, edges[1:], (False, True, False), strict=False)
    return [cut for cut in cuts if cut[0] < cut[1]]
