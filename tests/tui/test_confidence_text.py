"""The text widget under the pilot: shading, keys, following, selection, hostile text."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable

import pytest
from textual.app import App, ComposeResult
from textual.color import Color
from textual.geometry import Offset
from textual.pilot import Pilot
from textual.selection import Selection
from textual.theme import BUILTIN_THEMES
from textual.widgets import Static

from slim.events import TokenGenerated
from slim.shades import Bins, gauge, percent, relative_bins
from slim.tui.confidence_text import CONTRASTS, ConfidenceText, contrast, palette

HOSTILE = (
    "\x1b]0;title\x07", "\x1b[2J", "[bold red]markup[/]", "\u202eright to left", "zero\u200bwidth",
    "日本語テキスト", "e\u0301\u0301\u0301", "👍🏽👨\u200d👩\u200d👧", "\x9b31m", "a\rb", "\ud800", "☃\ufe0f",
)  # fmt: skip


def token(text: str, p: float = 0.5, index: int = 0) -> TokenGenerated:
    return TokenGenerated(index, 7, text, math.log(p), p, p, 0.1, 0, 0.1)


class TextApp(App[None]):
    def __init__(self, text: ConfidenceText | None = None) -> None:
        super().__init__()
        self.text = ConfidenceText("nothing yet") if text is None else text
        self.said: list[object] = []

    def compose(self) -> ComposeResult:
        yield self.text
        yield Static()

    def on_mount(self) -> None:
        self.text.focus()

    def on_confidence_text_selected(self, event: ConfidenceText.Selected) -> None:
        self.said.append(("selected", event.token and event.token.text))

    def on_confidence_text_entered(self, event: ConfidenceText.Entered) -> None:
        self.said.append(("entered", event.token and event.token.text))


def with_app(
    body: Callable[[TextApp, Pilot[None]], Awaitable[None]],
    size: tuple[int, int] = (40, 10),
    text: ConfidenceText | None = None,
) -> None:
    async def go() -> None:
        app = TextApp(text)
        async with app.run_test(size=size) as pilot:
            await pilot.pause()
            await body(app, pilot)

    asyncio.run(go())


def lines_of(text: ConfidenceText) -> list[str]:
    """What the widget shows."""
    return [text.render_line(y).text.rstrip() for y in range(text.size.height)]


def styles_of(text: ConfidenceText, y: int = 0) -> dict[str, str]:
    """Each piece of a line with its attributes and colour."""
    found = {}
    for segment in text.render_line(y):
        if segment.text.strip() and segment.style is not None:
            style = segment.style
            names = [
                name for name in ("bold", "dim", "underline", "reverse") if getattr(style, name)
            ]
            found[segment.text] = " ".join(
                [*names, str(style.color.triplet.hex if style.color else "")]
            )
    return found


def test_empty_text_says_what_to_do_and_then_follows_its_end() -> None:
    async def body(app: TextApp, pilot: Pilot[None]) -> None:
        assert any("nothing yet" in line for line in lines_of(app.text))
        app.text.append_text("Once ")
        for i in range(60):
            app.text.append_tokens([token(f"word{i} ")])
        await pilot.pause()
        assert "word59" in lines_of(app.text)[-1], "it follows"
        await pilot.press("up", "up")
        at = app.text.scroll_offset.y
        app.text.append_tokens([token(f"more{i} ") for i in range(30)])
        await pilot.pause()
        assert app.text.scroll_offset.y == at, "who reads further up is left alone"
        await pilot.press("end")
        await pilot.pause()
        assert "more29" in lines_of(app.text)[-1]

    with_app(body)


def test_the_cursor_comes_from_the_empty_line_at_the_end() -> None:
    async def body(app: TextApp, pilot: Pilot[None]) -> None:
        await pilot.press("left", "right")
        assert app.text.cursor is None, "there is nothing to go to"
        app.text.append_tokens([token("sure", 0.97), token("\n", 0.97)])
        await pilot.press("left")
        assert app.text.cursor == 1

    with_app(body)


def test_gutter_shows_the_typical_p_of_each_line() -> None:
    async def body(app: TextApp, pilot: Pilot[None]) -> None:
        app.text.append_tokens([token("sure\n", 0.97), token("unsure\n", 0.02)])
        app.text.append_text("a prompt")
        assert lines_of(app.text)[:3] == ["█ sure", "▁ unsure", "  a prompt"]
        await pilot.press("c", "c")
        assert app.text.mode == "off"
        assert lines_of(app.text)[:2] == ["  sure", "  unsure"]

    with_app(body)


def test_ascii_has_digits_and_plain_characters_only() -> None:
    async def body(app: TextApp, pilot: Pilot[None]) -> None:
        app.text.append_tokens([token("sure\n", 0.97), token("unsure", 0.02)])
        app.text.writing = True
        await pilot.press("c")
        assert app.text.mode == "numbers"
        shown = lines_of(app.text)
        assert shown[:2] == ["9 sure(97)", "0 unsure(02)_"]
        assert "".join(shown).isascii() and app.text.legend().plain.isascii()

    with_app(body, text=ConfidenceText(ascii_only=True))


def test_c_cycles_and_the_legend_says_which_bins() -> None:
    async def body(app: TextApp, pilot: Pilot[None]) -> None:
        for i in range(100):
            app.text.append_tokens([token("w ", (i + 1) / 101)])
        modes = []
        for _ in range(4):
            modes.append(app.text.mode)
            await pilot.press("c")
        assert modes == ["shade", "numbers", "off", "underline"]
        assert "model p: ≥.80" in app.text.legend().plain
        await pilot.press("b")
        assert app.text.bins.relative and "relative to text: top 40%" in app.text.legend().plain
        await pilot.press("b")
        assert app.text.bins == Bins()
        usual = Bins((0.9, 0.6, 0.3, 0.1), relative=True)
        app.text.know_usual_bins(usual)
        assert app.text.bins == Bins(), "absolute bins were asked for"
        await pilot.press("b")
        assert app.text.bins == usual and "relative to usual: top 40%" in app.text.legend().plain
        await pilot.resize_terminal(80, 12)
        await pilot.pause()
        assert app.text.legend().plain.endswith("▁ to █: a line's typical p")
        assert app.text.legend().cell_len <= 78, "the room at 80x24"
        await pilot.resize_terminal(70, 12)
        await pilot.pause()
        assert app.text.legend().plain.endswith("▁ to █: a line") and app.text.legend().cell_len <= 68
        await pilot.press("c", "c")
        assert app.text.mode == "off" and "c shows it" in app.text.legend().plain

    with_app(body)


def test_relative_bins_need_enough_tokens() -> None:
    async def body(app: TextApp, pilot: Pilot[None]) -> None:
        app.text.append_tokens([token("few")])
        await pilot.press("b")
        assert app.text.bins == Bins()

    with_app(body)


@pytest.mark.parametrize("colours", [None, "standard", "truecolor"])
def test_few_colours_leave_attributes_only(
    colours: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def body(app: TextApp, pilot: Pilot[None]) -> None:
        monkeypatch.setattr(app.console, "_color_system", None)
        monkeypatch.setattr(type(app.console), "color_system", colours)
        app.text.notify_style_update()
        for p in (0.9, 0.6, 0.3, 0.1, 0.01):
            app.text.append_tokens([token(f"w{p} ", p)])
        styles = list(styles_of(app.text).values())[1:]
        colour = {style.split()[-1] for style in styles}
        assert (len(colour) > 1) is (colours == "truecolor")
        assert len(set(styles)) == 5, "five bins are told apart"

    with_app(body, size=(60, 5))


@pytest.mark.parametrize("name", sorted(BUILTIN_THEMES))
def test_shades_are_readable_on_every_theme(name: str) -> None:
    colours = BUILTIN_THEMES[name].to_color_system().generate()
    background = Color.parse(colours["background"])
    if background.ansi is not None:
        return  # the terminal's own colours: nobody knows them
    foreground = Color.parse(colours["foreground"])
    shades = palette(background, foreground, shaded=True, coloured=True).shades
    found = []
    for style in shades[2:]:
        assert style.color is not None
        found.append(contrast(Color.from_rich_color(style.color), background))
    best = contrast(foreground, background)
    for one, wanted in zip(found, CONTRASTS, strict=True):
        assert one >= min(wanted, best) - 0.1
    assert found == sorted(found, reverse=True)


def test_cursor_walks_tokens_and_lines_and_tells_the_screen() -> None:
    async def body(app: TextApp, pilot: Pilot[None]) -> None:
        app.text.append_text("Once ")
        app.text.append_tokens(
            [token("there "), token("was\n"), token(""), token("a "), token("girl")]
        )
        await pilot.press("right")
        assert app.text.selected is not None and app.text.selected.text == "there "
        assert "reverse" in styles_of(app.text)["there "]
        await pilot.press("down")
        assert app.text.selected.text == "girl", "the one below, in the same column"
        await pilot.press("left", "left")
        assert app.text.selected.text == "was\n", "a token without text is passed over"
        await pilot.press("enter")
        await pilot.press("escape")
        await pilot.pause()
        assert app.text.selected is None
        assert app.said[-2:] == [("entered", "was\n"), ("selected", None)]
        await pilot.press("left")
        assert app.text.selected is not None and app.text.selected.text == "girl"

    with_app(body)


def test_n_finds_what_the_model_did_not_expect() -> None:
    async def body(app: TextApp, pilot: Pilot[None]) -> None:
        for i in range(200):
            app.text.append_tokens([token(f"w{i} ", 0.01 if i in (20, 150) else 0.9)])
        await pilot.press("n")
        assert app.text.selected is not None and app.text.selected.text == "w20 "
        await pilot.press("n")
        assert app.text.selected.text == "w150 "
        y = app.text.flow.line_of(app.text.cursor or 0) - app.text.scroll_offset.y
        assert 0 <= y < app.text.size.height, "it is in view"
        await pilot.press("n")
        assert app.text.selected.text == "w150 "
        await pilot.press("N")
        assert app.text.selected.text == "w20 "

    with_app(body)


def test_a_click_selects_the_token_under_it() -> None:
    async def body(app: TextApp, pilot: Pilot[None]) -> None:
        app.text.append_tokens([token("日本"), token(" two")])
        await pilot.pause()
        await pilot.click(ConfidenceText, offset=(4, 0))
        assert app.text.selected is not None and app.text.selected.text == "日本"
        await pilot.click(ConfidenceText, offset=(7, 0))
        assert app.text.selected.text == " two"
        await pilot.click(ConfidenceText, offset=(0, 0))
        assert app.text.selected is None, "the bar is no token"

    with_app(body)


def test_selection_and_copy_are_clean() -> None:
    async def body(app: TextApp, pilot: Pilot[None]) -> None:
        app.text.append_text("Once ")
        app.text.append_tokens(
            [token("upon a time there was ", 0.1), token("a small fox\nwho ran")]
        )
        await pilot.press("c")  # numbers
        await pilot.press("y")
        assert app.clipboard == "Once upon a time there was a small fox\nwho ran"
        selection = Selection(Offset(0, 0), Offset(2, 1))
        app.screen.selections = {app.text: selection}
        await pilot.pause()
        first = lines_of(app.text)[0]
        assert "¹⁰" in "".join(lines_of(app.text)) and len(first) <= 40
        got = app.text.get_selection(selection)
        assert got is not None and "Once upon a time there was a small fox".startswith(got[0])
        await pilot.press("y")
        assert app.clipboard == got[0]

    with_app(body, size=(24, 10))


def test_dragging_with_the_mouse_selects_text() -> None:
    async def body(app: TextApp, pilot: Pilot[None]) -> None:
        app.text.append_tokens([token("Once upon "), token("a time")])
        await pilot.pause()
        await pilot.mouse_down(ConfidenceText, offset=(7, 0))
        await pilot.hover(ConfidenceText, offset=(12, 0))
        await pilot.mouse_up(ConfidenceText, offset=(12, 0))
        await pilot.pause()
        assert app.screen.get_selected_text() == "upon a"
        assert app.text.selected is None, "a selection is no click"

    with_app(body)


def test_resizing_keeps_the_place() -> None:
    async def body(app: TextApp, pilot: Pilot[None]) -> None:
        app.text.append_tokens([token(f"word{i} ") for i in range(300)])
        await pilot.press("end")
        await pilot.resize_terminal(60, 12)
        await pilot.pause()
        assert "word299" in lines_of(app.text)[-1]
        await pilot.resize_terminal(60, 8)  # as wide as before: no line is broken anew
        await pilot.pause()
        assert "word299" in lines_of(app.text)[-1]
        await pilot.press("up", "left")
        assert app.text.selected is not None
        chosen = app.text.selected.text.strip()
        await pilot.resize_terminal(60, 4)
        await pilot.pause()
        assert any(chosen in line for line in lines_of(app.text))
        await pilot.press("escape")
        app.text.scroll_to(y=20, animate=False)
        await pilot.pause()
        first = lines_of(app.text)[0].split()[1]
        await pilot.resize_terminal(30, 8)
        await pilot.pause()
        assert any(first in line for line in lines_of(app.text)[:3])

    with_app(body)


def test_cutting_puts_the_cursor_away() -> None:
    async def body(app: TextApp, pilot: Pilot[None]) -> None:
        app.text.append_tokens([token("one "), token("two "), token("three")])
        await pilot.press("left")
        app.text.keep(0, 6)
        await pilot.pause()
        assert app.text.text == "one two " and app.text.selected is None
        app.text.clear()
        assert app.text.text == "" and any("nothing yet" in line for line in lines_of(app.text))

    with_app(body)


def test_what_the_model_no_longer_sees_is_marked() -> None:
    async def body(app: TextApp, pilot: Pilot[None]) -> None:
        app.text.append_tokens([token("old\n", 0.9), token("new", 0.9)])
        app.text.forget(1)
        assert lines_of(app.text)[:2] == ["┊ old", "█ new"]

    with_app(body)


@pytest.mark.parametrize("mode", ["off", "underline", "shade", "numbers"])
def test_hostile_text_never_reaches_the_terminal(mode: str) -> None:
    async def body(app: TextApp, pilot: Pilot[None]) -> None:
        app.text.set_mode(mode)
        app.text.append_text("".join(HOSTILE))
        app.text.append([*map(_piece, HOSTILE)])
        app.text.placeholder = HOSTILE[0]
        for width in (40, 7, 3):
            await pilot.resize_terminal(width, 30)
            await pilot.pause()
            for y in range(len(app.text.flow.lines)):
                strip = app.text._draw(y, app.text._styles())
                assert not any(
                    ord(character) < 32 or 0x7F <= ord(character) < 0xA0
                    or character in "\u202e\u200b\u200d\ud800\ufe0f"
                    for character in strip.text
                )  # fmt: skip
        assert "[bold red]markup[/]" in app.text.text
        app.text.clear()
        assert "\x1b" not in "".join(lines_of(app.text))

    with_app(body)


def _piece(text: str):
    from slim.tui.token_flow import Piece

    return Piece(text, "token", token(text))


def test_thousands_of_tokens_cost_no_more_than_a_few() -> None:
    """What is drawn and broken again does not grow with the text."""

    async def body(app: TextApp, pilot: Pilot[None]) -> None:
        app.text.append_tokens([token(f"word{i} ") for i in range(5000)])
        await pilot.pause()
        before = list(app.text.flow.lines)
        drawn: list[int] = []
        draw = app.text._draw
        app.text._draw = lambda y, styles: drawn.append(y) or draw(y, styles)  # type: ignore[method-assign]
        app.text.append_tokens([token("one more ")])
        await pilot.pause()
        assert sum(a is not b for a, b in zip(before, app.text.flow.lines, strict=False)) <= 1
        assert len(drawn) <= 4, "the other lines are as they were"

    with_app(body)


def test_bins_and_bars() -> None:
    assert [Bins().of(p) for p in (0.8, 0.79, 0.5, 0.2, 0.05, 0.049)] == [0, 1, 1, 2, 3, 4]
    values = [i / 1000 for i in range(1000)]
    bins = relative_bins(values)
    shares = [sum(bins.of(p) == which for p in values) / 1000 for which in range(5)]
    assert shares == pytest.approx([0.40, 0.25, 0.15, 0.12, 0.08], abs=0.01)
    assert relative_bins(values[:10]) == Bins()
    assert bins.names == ("top 40%", "25%", "15%", "12%", "last 8%")
    assert gauge(0.0) + gauge(0.5) + gauge(1.0) == "▁▅█"
    assert gauge(0.0, True) + gauge(0.5, True) + gauge(1.0, True) == "059"
    assert [percent(p) for p in (0.0, 0.005, 0.5, 1.0)] == ["00", "00", "50", "99"]
