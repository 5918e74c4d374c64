"""Text as a model writes it: each token shaded by how expected it was, each line with a bar for all of them.

Only what is on the screen is drawn, and only the last line is broken again when tokens arrive, so that a text of
thousands of tokens costs as little as a short one. What is copied is the text alone.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from rich.cells import cell_len
from rich.segment import Segment
from rich.style import Style
from rich.text import Text
from textual import events
from textual.actions import SkipAction
from textual.binding import Binding, BindingType
from textual.color import Color
from textual.geometry import Offset, Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.selection import Selection
from textual.strip import Strip

from slim.confidence import typical_p
from slim.events import TokenGenerated
from slim.safe_text import safe_text
from slim.shades import Bins, gauge, relative_bins
from slim.tui.token_flow import Line, Piece, TokenFlow

MODES = ("off", "underline", "shade", "numbers")
GUTTER = 2  # cells left of the text
HUE = Color.parse("#5b9bd5")
# Contrast of the three fainter bins with the background; 3 is the least that is read without effort.
CONTRASTS = (6.8, 4.6, 3.1)
COLOUR_SYSTEMS = ("256", "truecolor")  # of Rich's; with 16 colours no scale can be shown
LEGEND_CELLS = 78
_STEPS = 48  # between the background and the foreground, among which a colour of a given contrast is looked for
_CACHED_LINES = 2048
ATTRIBUTES = (
    Style(bold=True),
    Style(),
    Style(dim=True),
    Style(underline=True),
    Style(underline=True, dim=True),
)


@dataclass(frozen=True, slots=True)
class Palette:
    """The styles of a text: `shades` from the most expected bin to the least."""

    base: Style
    shades: tuple[Style, ...]
    plain: Style
    heading: Style
    note: Style
    gutter: Style
    number: Style


def contrast(one: Color, other: Color) -> float:
    """The ratio of two luminances as WCAG 2 counts it, from 1 to 21."""
    lighter, darker = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def _luminance(color: Color) -> float:
    linear = [
        value / 12.92 if value <= 0.03928 else ((value + 0.055) / 1.055) ** 2.4
        for value in color.normalized
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def toned(background: Color, foreground: Color, wanted: float) -> Color:
    """The faintest colour of our hue that stands out from the background by this much, as far as there is one."""
    for step in range(2 * _STEPS + 1):
        t = step / _STEPS
        color = background.blend(HUE, t, 1.0) if t <= 1.0 else HUE.blend(foreground, t - 1.0, 1.0)
        if contrast(color, background) >= wanted:
            return color
    return foreground


def palette(background: Color, foreground: Color, shaded: bool, coloured: bool) -> Palette:
    """Styles for a background and a foreground; without colour, attributes only. None but `base` has a background."""
    base = Style(color=foreground.rich_color, bgcolor=background.rich_color)
    if not coloured:
        faint = Style(dim=True)
        return Palette(base, ATTRIBUTES, Style(), Style(bold=True), faint, Style(), faint)
    colours = (toned(background, foreground, one).rich_color for one in CONTRASTS)
    middle, low, faint = (Style(color=colour) for colour in colours)
    line = Style(underline=True)
    shades = (Style(bold=True), Style(), middle, low + line, faint + line)
    return Palette(
        base=base,
        shades=shades if shaded else ATTRIBUTES,
        plain=low,
        heading=middle + Style(bold=True),
        note=low + Style(italic=True),
        gutter=low,
        number=faint,
    )


READING_KEYS = (
    Binding("c", "confidence", "shade", tooltip="confidence: off, underline, shade, numbers"),
    Binding("n", "uncertain(1)", "unsure", tooltip="next uncertain token"),
    Binding("N", "uncertain(-1)", "unsure before", show=False, tooltip="uncertain token before"),
    Binding("b", "bins", "bins", show=False, tooltip="bins: absolute, relative"),
    Binding("y", "copy", "copy", show=False, tooltip="copy the selection, or all"),
)


class ConfidenceText(ScrollView, can_focus=True, inherit_bindings=False):
    """A read-only text that grows; it follows its end as long as that is in view."""

    ALLOW_SELECT = True
    DEFAULT_CSS = """
    ConfidenceText {
        overflow-x: hidden;
        overflow-y: scroll;
        scrollbar-size-vertical: 1;
        background: $surface;
        color: $foreground;
    }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        *READING_KEYS,
        Binding("right", "cursor(1)", "next token", show=False),
        Binding("left", "cursor(-1)", "token before", show=False),
        Binding("down", "line(1)", "line down", show=False),
        Binding("up", "line(-1)", "line up", show=False),
        Binding("enter", "enter", "alternatives of the token", show=False),
        Binding("escape", "leave", "leave the token", show=False),
        Binding("pageup", "page_up", "a page up", show=False),
        Binding("pagedown", "page_down", "a page down", show=False),
        Binding("home,ctrl+home", "scroll_home", "to the beginning", show=False),
        Binding("end,ctrl+end", "scroll_end", "to the end", show=False),
    ]

    class Selected(Message):
        """The cursor moved to a token, or left (token None)."""

        def __init__(self, widget: ConfidenceText, token: TokenGenerated | None) -> None:
            super().__init__()
            self.widget = widget
            self.token = token

        @property
        def control(self) -> ConfidenceText:
            return self.widget

    class Entered(Selected):
        """Enter was pressed on a token."""

    class Restyled(Message):
        """The mode or the bins changed, so that a legend has to be drawn again."""

    def __init__(
        self,
        placeholder: str = "",
        *,
        mode: str = "shade",
        ascii_only: bool = False,
        id: str | None = None,
        classes: str | None = None,
    ) -> None:
        """placeholder: what stands there while there is no text"""
        super().__init__(id=id, classes=classes)
        self.flow = TokenFlow()
        self.cursor: int | None = None  # the number of a piece
        self.forgotten = 0  # so many pieces the model no longer sees
        self.mode = mode
        self.bins = Bins()
        self.usual_bins: Bins | None = None  # of the model, where its file knows them
        self._placeholder = safe_text(placeholder)
        self._ascii = ascii_only
        self._wants_absolute = False
        self._writing = False
        self._height = 0  # as it was when the text was last laid out
        self._strips: dict[int, Strip] = {}
        self._palette: Palette | None = None

    # ---- what the text is ------------------------------------------------------------------------------------------

    @property
    def text(self) -> str:
        """All that stands there, as it is copied."""
        return self.flow.text

    @property
    def placeholder(self) -> str:
        """What stands there while there is no text."""
        return self._placeholder

    @placeholder.setter
    def placeholder(self, text: str) -> None:
        if text != self._placeholder:
            self._placeholder = safe_text(text)
            self.refresh()

    @property
    def selected(self) -> TokenGenerated | None:
        """The token under the cursor."""
        return None if self.cursor is None else self.flow.pieces[self.cursor].token

    @property
    def writing(self) -> bool:
        """Whether there is more to come, which a block at the end shows."""
        return self._writing

    @writing.setter
    def writing(self, value: bool) -> None:
        if value != self._writing:
            self._writing = value
            self._redraw_from(len(self.flow.lines) - 1)

    def append(self, pieces: Iterable[Piece]) -> None:
        """Add pieces at the end, all that came since the last time at once."""
        followed = self.is_vertical_scroll_end
        self._redraw_from(self.flow.append(pieces))
        self._resized()
        if followed:
            self.scroll_end(animate=False, immediate=True, x_axis=False)

    def append_text(self, text: str, kind: str = "text") -> None:
        """Add text that is nobody's guess: of a prompt (text), a heading or a note."""
        self.append([Piece(text, kind)])

    def append_tokens(self, tokens: Sequence[TokenGenerated]) -> None:
        """Add tokens as they were drawn."""
        if tokens:
            self.append(Piece(token.text, "token", token) for token in tokens)

    def clear(self) -> None:
        """An empty text."""
        self.cut(0)

    def cut(self, count: int) -> None:
        """Keep the first `count` pieces."""
        if self.cursor is not None and self.cursor >= count:
            self._move_to(None)
        self._redraw_from(self.flow.cut(count))
        self._resized()

    def shorten(self, count: int, note: str) -> None:
        """Put a note in place of the first `count` pieces; what is in view stays there."""
        followed, lines = self.is_vertical_scroll_end, len(self.flow.lines)
        self.flow.replace_first(count, Piece(note, "note"))
        if self.cursor is not None:
            self.cursor = self.cursor - count + 1 if self.cursor >= count else None
        self.forgotten = max(self.forgotten - count + 1, 0)
        self._redraw_from(0)
        self._resized()
        if self.text_selection is not None:
            self.screen.clear_selection()
        y = self.scroll_offset.y - lines + len(self.flow.lines)
        if followed:
            self.scroll_end(animate=False, immediate=True, x_axis=False)
        else:
            self.scroll_to(y=max(y, 0), animate=False, immediate=True)

    def keep(self, first: int, characters: int) -> None:
        """From piece number `first` on, keep the pieces that so many characters need, and those without any."""
        for number in range(first, len(self.flow.pieces)):
            size = len(self.flow.pieces[number].text)
            if size and characters <= 0:
                self.cut(number)
                return
            characters -= size

    def forget(self, count: int) -> None:
        """Mark the first `count` pieces as those that the model no longer sees."""
        if count != self.forgotten:
            self.forgotten = count
            self._redraw_from(0)

    @property
    def typical(self) -> float:
        """The typical p of all tokens."""
        return typical_p(token.logprob for token in self.flow.tokens)

    # ---- how it is shown -------------------------------------------------------------------------------------------

    def set_mode(self, mode: str) -> None:
        """Show confidence in another way: one of MODES."""
        numbers = "numbers" in (mode, self.mode)
        self.mode = mode
        self._palette = None
        if numbers:
            self._layout(self.is_vertical_scroll_end)
        self._redraw_from(0)
        self.post_message(self.Restyled())

    def set_bins(self, bins: Bins) -> None:
        """Shade by other edges."""
        self.bins = bins
        self._redraw_from(0)
        self.post_message(self.Restyled())

    def know_usual_bins(self, bins: Bins | None) -> None:
        """The bins of the model's own tokens, None where nobody knows them: shown unless absolute ones are wanted."""
        self.usual_bins = bins
        self.set_bins(Bins() if bins is None or self._wants_absolute else bins)

    def legend(self) -> Text:
        """What the marks mean, in a line of at most LEGEND_CELLS, fewer where there is less room."""
        if self.mode == "off":
            return Text("confidence is off: c shows it", no_wrap=True, style="dim")
        words = "relative to text: " if self.bins.relative else "model p: "
        if self.bins.relative and self.bins == self.usual_bins:
            words = "relative to usual: "
        out = Text(words, no_wrap=True, overflow="ellipsis")
        for name, style in zip(self.bins.names, self._styles().shades, strict=True):
            shown = name.replace("≥", ">=") if self._ascii else name
            out.append(shown, style)
            out.append("  ")
        ends = f"{gauge(0.0, self._ascii)} to {gauge(1.0, self._ascii)}"
        room = (self.outer_size.width or LEGEND_CELLS + 2) - 2 - out.cell_len
        wordings = (f"{ends}: a line's typical p", f"{ends}: a line's p", f"{ends}: a line", ends)
        shown = next((one for one in wordings if cell_len(one) <= room), "")
        out.append(shown, self._styles().note)
        return out

    def notify_style_update(self) -> None:
        """The theme or the focus changed."""
        super().notify_style_update()
        before, self._palette = self._palette, None
        self._strips.clear()
        if before is not None and before != self._styles():
            self.post_message(self.Restyled())

    def selection_updated(self, selection: Selection | None) -> None:
        """Text was selected with the mouse."""
        self._strips.clear()
        self.refresh()

    def get_selection(self, selection: Selection) -> tuple[str, str] | None:
        """The selected text, without marks and without the breaks of lines that are only shown."""
        start = (0, 0) if selection.start is None else selection.start.transpose
        last = (len(self.flow.lines), 0)
        end = last if selection.end is None else selection.end.transpose
        return self.flow.source_between(start, end), "\n"

    def render_line(self, y: int) -> Strip:
        """A line of the screen."""
        width = self.size.width
        styles = self._styles()
        if not self.flow.pieces:
            return self._placeholder_line(y, width, styles)
        y += self.scroll_offset.y
        if y >= len(self.flow.lines):
            return Strip.blank(width, styles.base)
        strip = self._strips.get(y)
        if strip is None:
            if len(self._strips) > _CACHED_LINES:
                self._strips.clear()
            strip = self._strips[y] = self._draw(y, styles)
        return strip.adjust_cell_length(width, styles.base)

    def _draw(self, y: int, styles: Palette) -> Strip:
        line = self.flow.lines[y]
        span = None if self.text_selection is None else self.text_selection.get_span(y)
        chosen = self.screen.get_component_rich_style("screen--selection") if span else Style()
        segments = [Segment(self._bar(line), styles.base + styles.gutter + _place(-GUTTER, y))]
        at = 0
        for run in line.runs:
            piece = self.flow.pieces[run.piece]
            if run.piece < self.forgotten:
                style = styles.base + styles.note
            elif run.source or piece.token is None:
                style = styles.base + self._style_of(piece, styles)
            else:
                style = styles.base + styles.number
            word = len(run.shown) - len(run.shown.lstrip(" "))  # the blank before it is not marked
            parts = [(run.shown[:word], styles.base), (run.shown[word:], style)]
            if run.piece == self.cursor:
                which = 1 if parts[1][0] else 0
                parts[which] = (parts[which][0], style + Style(reverse=True))
            for part, style in parts:
                for start, end, inside in _parts(at, at + len(part), span):
                    shown = part[start - at : end - at]
                    style_there = style + chosen if inside else style
                    segments.append(Segment(shown, style_there + _place(start, y)))
                at += len(part)
        cells = GUTTER + sum(run.cells for run in line.runs)
        if self._writing and y == len(self.flow.lines) - 1:
            segments.append(Segment("_" if self._ascii else "▌", styles.base + styles.heading))
            cells += 1
        return Strip(segments, cells)

    def _style_of(self, piece: Piece, styles: Palette) -> Style:
        if piece.kind == "heading":
            return styles.heading
        if piece.kind == "note":
            return styles.note
        if piece.token is None:
            return styles.plain
        if self.mode == "off":
            return Style()
        return styles.shades[self.bins.of(piece.token.p)]

    def _bar(self, line: Line) -> str:
        if (line.runs[0].piece if line.runs else line.piece) < self.forgotten:
            return (":" if self._ascii else "┊").ljust(GUTTER)
        if line.typical is None or self.mode == "off":
            return " " * GUTTER
        return gauge(line.typical, self._ascii).ljust(GUTTER)

    def _placeholder_line(self, y: int, width: int, styles: Palette) -> Strip:
        lines = [
            line
            for part in self._placeholder.split("\n")
            for line in textwrap.wrap(part, max(10, min(width - 4, 76))) or [""]
        ]
        y -= max(0, (self.size.height - len(lines)) // 2)
        if not 0 <= y < len(lines):
            return Strip.blank(width, styles.base)
        return Strip(
            [Segment(lines[y].center(width), styles.base + styles.note)], width
        ).adjust_cell_length(width, styles.base)  # fmt: skip

    def _styles(self) -> Palette:
        if self._palette is None:
            _, _, background, foreground = self.colors
            coloured = not self.app.no_color and self.app.console.color_system in COLOUR_SYSTEMS
            self._palette = palette(
                background, background.blend(foreground, foreground.a, 1.0),
                self.mode != "underline", coloured,
            )  # fmt: skip
        return self._palette

    def _redraw_from(self, first: int) -> None:
        for y in range(max(first, 0), max(self._strips, default=-1) + 1):
            self._strips.pop(y, None)
        self.refresh()

    # ---- size ------------------------------------------------------------------------------------------------------

    def on_resize(self) -> None:
        followed = self.scroll_offset.y + self._height >= len(self.flow.lines)
        self._height = self.size.height
        self._layout(followed)
        if self.cursor is not None:
            self._bring_into_view(self.cursor)
        self.post_message(self.Restyled())  # the legend has another width, too

    def _layout(self, followed: bool) -> None:
        """Break all lines for the present width; the end stays in view where it was, else what is at the top there."""
        width = self.scrollable_content_region.width - GUTTER - 1
        if width < 1:
            return
        lines, y = self.flow.lines, self.scroll_offset.y
        top = lines[y].piece if y < len(lines) else 0
        numbers = ("ascii" if self._ascii else "small") if self.mode == "numbers" else ""
        if self.flow.layout(width, numbers):
            self._redraw_from(0)
            self._resized()
            if self.text_selection is not None:
                self.screen.clear_selection()
            if not followed:
                self.scroll_to(y=self.flow.line_of(top), animate=False, immediate=True)
        if followed:
            self.scroll_end(animate=False, immediate=True, x_axis=False)

    def _resized(self) -> None:
        height = len(self.flow.lines) if self.flow.pieces else 0
        if self.virtual_size.height != height:
            self.virtual_size = Size(0, height)

    # ---- keys and mouse --------------------------------------------------------------------------------------------

    def action_cursor(self, step: int) -> None:
        """To the next token, or the one before; the first time to one that is in view."""
        numbers = self._token_numbers(self.cursor, step)
        if self.cursor is None:
            last = self.scroll_offset.y + self.size.height
            inside = self.flow.lines[self.scroll_offset.y : last]
            if not inside:
                return
            if step > 0:
                numbers = range(inside[0].piece, len(self.flow.pieces))
            else:
                last_run = inside[-1].runs[-1].piece if inside[-1].runs else inside[-1].piece
                # An empty line at the very end, as of an empty text, belongs to the piece that is still to come.
                numbers = range(min(last_run, len(self.flow.pieces) - 1), -1, -1)
        self._move_to(next((i for i in numbers if self._is_token(i)), self.cursor))

    def action_line(self, step: int) -> None:
        """With a cursor: to the line below or above; without one the text is scrolled."""
        if self.cursor is None:
            self.scroll_relative(y=step, animate=False, immediate=True)
            return
        y = self.flow.line_of(self.cursor)
        cell = 0
        for run in self.flow.lines[y].runs:
            if run.piece == self.cursor:
                break
            cell += run.cells
        while 0 <= (y := y + step) < len(self.flow.lines):
            line = self.flow.lines[y]
            found = line.run_at(cell)
            near = [found.piece] if found is not None else []
            near += [run.piece for run in reversed(line.runs)]
            for piece in near:
                if self._is_token(piece):
                    self._move_to(piece)
                    return

    def action_uncertain(self, step: int) -> None:
        """To the next token of the lowest bin."""
        lowest = len(self.bins.edges)
        found = next(
            (
                number
                for number in self._token_numbers(self.cursor, step)
                if self._is_token(number) and self._bin_of(number) == lowest
            ),
            None,
        )
        if found is None:
            where = "after" if step > 0 else "before"
            self.notify(f"no uncertain token {where} this place", timeout=2)
        else:
            self._move_to(found)

    def action_confidence(self) -> None:
        """The next way to show confidence."""
        self.set_mode(MODES[(MODES.index(self.mode) + 1) % len(MODES)])

    def action_bins(self) -> None:
        """From absolute bins to this model's own, and back."""
        self._wants_absolute = self.bins.relative
        if self._wants_absolute:
            self.set_bins(Bins())
            return
        bins = self.usual_bins or relative_bins(token.p for token in self.flow.tokens)
        if not bins.relative:
            self.notify("relative bins need a longer text", timeout=2)
        self.set_bins(bins)

    def action_copy(self) -> None:
        """The selection, else the whole text, to the clipboard."""
        text = self.screen.get_selected_text() or self.text
        if text:
            self.app.copy_to_clipboard(text)
            self.notify(f"copied {len(text):,} characters", timeout=2)

    def action_enter(self) -> None:
        """Tell the screen that the alternatives are wanted."""
        if self.selected is None:
            raise SkipAction
        self.post_message(self.Entered(self, self.selected))

    def action_leave(self) -> None:
        """Put the cursor away."""
        if self.cursor is None or self._writing:
            raise SkipAction
        self._move_to(None)

    def on_click(self, event: events.Click) -> None:
        if self.text_selection is not None:
            return
        offset = event.get_content_offset(self)
        if offset is not None:
            self._move_to(self._token_at(offset + self.scroll_offset))

    def _token_at(self, place: Offset) -> int | None:
        if place.x < GUTTER or place.y >= len(self.flow.lines):
            return None
        run = self.flow.lines[place.y].run_at(place.x - GUTTER)
        return run.piece if run is not None and self._is_token(run.piece) else None

    def _token_numbers(self, start: int | None, step: int) -> range:
        """The pieces from a place on, one way or the other."""
        if step > 0:
            return range(0 if start is None else start + 1, len(self.flow.pieces))
        return range(len(self.flow.pieces) - 1 if start is None else start - 1, -1, -1)

    def _is_token(self, number: int) -> bool:
        piece = self.flow.pieces[number]
        return piece.token is not None and bool(piece.text)

    def _bin_of(self, number: int) -> int:
        token = self.flow.pieces[number].token
        return self.bins.of(math.inf if token is None else token.p)

    def _move_to(self, number: int | None) -> None:
        """The cursor to a piece, in view."""
        before, self.cursor = self.cursor, number
        if before == number:
            return
        for piece in (before, number):
            if piece is not None and piece < len(self.flow.pieces):
                y = self.flow.line_of(piece)
                for changed in (y, y + 1):  # a token may go on in the next line
                    self._strips.pop(changed, None)
        self.refresh()
        if number is not None:
            self._bring_into_view(number)
        self.post_message(self.Selected(self, self.selected))

    def _bring_into_view(self, number: int) -> None:
        y, top, height = self.flow.line_of(number), self.scroll_offset.y, self.size.height
        if not top <= y < top + height:
            self.scroll_to(y=y - height // 3, animate=False, immediate=True)


def _place(x: int, y: int) -> Style:
    """What Textual's selection with the mouse reads off a segment."""
    return Style.from_meta({"offset": (x, y)})


def _parts(start: int, end: int, span: tuple[int, int] | None) -> Iterable[tuple[int, int, bool]]:
    """The pieces of a run before, inside and after a selected span; an end of -1 is the end of the line."""
    if span is None:
        return [(start, end, False)] if start < end else []
    first, last = max(span[0], start), end if span[1] < 0 else min(span[1], end)
    if first >= last:
        return [(start, end, False)] if start < end else []
    cuts = ((start, first, False), (first, last, True), (last, end, False))
    return [part for part in cuts if part[0] < part[1]]
