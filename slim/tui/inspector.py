"""What a model could have written instead of a token: its most probable alternatives, and all the others together."""

from __future__ import annotations

from typing import ClassVar

from rich.cells import cell_len, set_cell_size
from rich.style import Style
from rich.text import Text
from textual import events
from textual.binding import Binding, BindingType
from textual.message import Message
from textual.widget import Widget

from slim.events import Alternative, TokenGenerated
from slim.safe_text import safe_text

SHOWN = 8
BAR = "▏▎▍▌▋▊▉█"
WIDE = 64  # cells from which the alternatives stand in two columns where they are too many for the height
SURE, FAIRLY, TORN, BROAD = 0.8, 0.5, 0.6, 0.5


def separator(ascii_only: bool) -> str:
    """What stands between short facts in a line."""
    return " | " if ascii_only else " · "


def visible(text: str, ascii_only: bool = False) -> str:
    """A token so that its blanks and line breaks are seen."""
    blank, line_break, tab = ("_", "\\n", "\\t") if ascii_only else ("␣", "⏎", "⇥")
    return safe_text(text.replace(" ", blank).replace("\n", line_break).replace("\t", tab))


def verdict(token: TokenGenerated) -> str:
    """How the model stood to its choice, in words."""
    shares = [one.p for one in token.alternatives]
    if not shares:
        return ""
    if shares[0] >= SURE:
        return "sure"
    if len(shares) > 1 and shares[0] + shares[1] >= TORN and shares[1] >= shares[0] / 3:
        return "torn between two"
    if shares[0] >= FAIRLY:
        return "fairly sure"
    if 1.0 - sum(shares) >= BROAD:
        return "broadly unsure"
    return "several would fit"


def bar(share: float, cells: int, ascii_only: bool = False) -> str:
    """A bar of at most so many cells, in eighths of one."""
    if ascii_only:
        return ("#" * round(share * cells)).ljust(cells)
    whole, part = divmod(round(share * cells * 8), 8)
    return ("█" * whole + (BAR[part - 1] if part else "")).ljust(cells)


def probability(p: float) -> str:
    """Three digits at most: .43, .002, and 1.0 only for what is certain."""
    if p >= 0.995:
        return "1.0" if p >= 0.9995 else ".99"
    return f"{p:.2f}"[1:] if p >= 0.01 else f"{p:.3f}"[1:]


class Inspector(Widget, can_focus=True):
    """Shows a token and its alternatives; Enter on one of them asks for the text to go on from there."""

    DEFAULT_CSS = """
    Inspector { padding: 0 1; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "choose(-1)", "alternative above", show=False),
        Binding("down,j", "choose(1)", "alternative below", show=False),
        Binding("enter", "branch", "go on from this alternative", show=False),
    ]

    class Branch(Message):
        """The text should go on from an alternative of the token that is shown."""

        def __init__(self, alternative: Alternative) -> None:
            super().__init__()
            self.alternative = alternative

    def __init__(
        self, *, ascii_only: bool = False, branches: bool = True, id: str | None = None
    ) -> None:
        """branches: whether a text can go on from an alternative"""
        super().__init__(id=id)
        self._branches = branches
        self.token: TokenGenerated | None = None
        self.chosen = 0
        self._by_hand = False
        self._vocab_size = 0
        self._ascii = ascii_only

    def show(
        self, token: TokenGenerated | None, vocab_size: int = 0, by_hand: bool = False
    ) -> None:
        """Look at a token; by_hand: a person put it there."""
        if token is self.token:
            return
        self.token, self._vocab_size, self._by_hand = token, vocab_size, by_hand
        self.chosen = 0
        if token is not None:
            ids = [one.token_id for one in token.alternatives]
            # The first that is another text than the one that stands there.
            self.chosen = 1 if ids[:1] == [token.token_id] and len(ids) > 1 else 0
            self.border_title = Text(f"token {token.index + 1:,}")
        self.refresh()

    # ---- what is drawn -------------------------------------------------------------------------------------------

    def render(self) -> Text:
        token = self.token
        if token is None:
            return Text(
                "Arrow keys choose a token,\nn the next uncertain one:\nwhat could have stood there is shown here.",
                style="dim",
            )
        width, height = self.content_size
        columns = 2 if width >= WIDE and height < SHOWN + 3 else 1
        words = verdict(token)
        lines = [self._line(width, f'"{visible(token.text, self._ascii)}"', words)]
        sampled = "chosen by hand" if self._by_hand else f"sampled p {probability(token.p_sampled)}"
        facts = [
            f"model p {probability(token.p)}", f"rank {token.rank + 1:,}", sampled,
            f"entropy {probability(token.entropy)}", f"margin {probability(token.margin)}",
        ]  # fmt: skip
        lines += [Text(line, style="dim") for line in _filled(facts, width, separator(self._ascii))]
        rows = [
            self._row(i, (width - columns + 1) // columns) for i in range(len(token.alternatives))
        ]
        each = -(-len(rows) // columns)
        for i in range(each):
            line = rows[i]
            if i + each < len(rows):
                line = Text.assemble(line, " ", rows[i + each])
            lines.append(line)
        lines.append(self._others((width - columns + 1) // columns))
        out = Text("\n", no_wrap=True).join(lines)
        out.no_wrap = True
        return out

    def _line(self, width: int, left: str, right: str) -> Text:
        room = max(1, width - cell_len(right) - 1)
        left = set_cell_size(left, room) if cell_len(left) > room else left.ljust(room)
        return Text.assemble((left, "bold"), " ", (right, "italic"))

    def _row(self, number: int, width: int) -> Text:
        assert self.token is not None
        one = self.token.alternatives[number]
        drawn = one.token_id == self.token.token_id
        mark = ("*" if self._ascii else "●") if drawn else " "
        chosen = number == self.chosen and self.has_focus
        if chosen:
            mark = ">" if self._ascii else "▶"
        style = Style(bold=drawn or chosen)
        name = f"{mark} {visible(one.text, self._ascii)}"
        return self._share(name, one.p, width, style, Style(reverse=chosen))

    def _others(self, width: int) -> Text:
        """All that is not listed."""
        assert self.token is not None
        listed = self.token.alternatives
        rest = max(0.0, 1.0 - sum(one.p for one in listed))
        count = max(0, self._vocab_size - len(listed))
        name = f"  {count:,} others" if self._vocab_size else "  all others"
        return self._share(name, rest, width, Style(dim=True))

    def _share(
        self, name: str, share: float, width: int, style: Style, name_style: Style | None = None
    ) -> Text:
        name_cells = max(6, min(18, width // 2))
        bar_cells = max(1, width - name_cells - 6)
        line = Text(style=style)
        line.append(set_cell_size(name, name_cells), name_style)
        line.append(f" {bar(share, bar_cells, self._ascii)} ", style)
        line.append(f"{probability(share):>4}", style)
        return line

    # ---- keys and mouse ------------------------------------------------------------------------------------------

    def action_choose(self, step: int) -> None:
        """Another alternative."""
        if self.token is not None and self.token.alternatives:
            self.chosen = (self.chosen + step) % len(self.token.alternatives)
            self.refresh()

    def action_branch(self) -> None:
        """Ask for the text to go on from the alternative."""
        if self._branches and self.token is not None and self.chosen < len(self.token.alternatives):
            self.post_message(self.Branch(self.token.alternatives[self.chosen]))

    def on_focus(self) -> None:
        self.refresh()

    def on_blur(self) -> None:
        self.refresh()

    def on_click(self, event: events.Click) -> None:
        """One click chooses, two branch."""
        offset = event.get_content_offset(self)
        if offset is None or self.token is None:
            return
        width, height = self.content_size
        count = len(self.token.alternatives)
        columns = 2 if width >= WIDE and height < SHOWN + 3 else 1
        each = -(-count // columns)
        first = str(self.render()).count("\n") - each  # the line of the first alternative
        row = offset.y - first
        number = row + (each if columns == 2 and offset.x > width // 2 else 0)
        if 0 <= row < each and number < count:
            self.chosen = number
            self.refresh()
            if event.chain == 2:
                self.action_branch()


def _filled(words: list[str], width: int, between: str) -> list[str]:
    """Short facts in as few lines as they need."""
    lines: list[str] = []
    for word in words:
        if lines and len(lines[-1]) + 3 + len(word) <= width:
            lines[-1] += between + word
        else:
            lines.append(word)
    return lines
