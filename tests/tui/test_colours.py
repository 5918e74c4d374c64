"""Every screen can be read: in both themes, in sixteen colours, and with none at all."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.color import Color, ColorSystem
from rich.segment import Segment
from rich.terminal_theme import TerminalTheme
from textual.color import Color as Shade

from scenes import SCENES, staged
from scripted import screen_text
from slim.compute import Engine
from slim.tui.app import SlimApp
from slim.tui.confidence_text import contrast
from slim.tui.theme import DARK, LIGHT, LIGHT_OF_SIXTEEN

LEAST = 3.0  # contrast of text; WCAG 2 asks for it of large letters and of what is no sentence
LINES = set("─━│┃╭╮╰╯┌┐└┘├┤┬┴┼▏▎▍▌▋▊▉█▔▁▂▃▄▅▆▇░▕┅┊◆▐▀▼ ") | {
    chr(code) for code in range(0x2800, 0x2900)
}
# As xterm has them, on black.
SIXTEEN = TerminalTheme(
    (0, 0, 0), (229, 229, 229),
    [(0, 0, 0), (205, 0, 0), (0, 205, 0), (205, 205, 0), (0, 0, 238), (205, 0, 205), (0, 205, 205), (229, 229, 229)],
    [(127, 127, 127), (255, 0, 0), (0, 255, 0), (255, 255, 0), (92, 92, 255), (255, 0, 255), (0, 255, 255), (255, 255, 255)],
)  # fmt: skip
DIALOGS = (
    "leaving",
    "open-dialog",
    "palette",
    "help-on-the-monitor",
)  # what is behind them is faint, and meant to be
SHOWN = [name for name in SCENES if "without" not in name and name not in DIALOGS]
UNSHADED = [name for name in SHOWN if not name.startswith(("generate", "chat", "monitor-"))]


def segments(app: SlimApp) -> Iterator[tuple[int, Segment]]:
    for y, strip in enumerate(app.screen._compositor.render_strips()):
        for segment in strip:
            yield y, segment


def shade(color: Color | None, foreground: bool, terminal: TerminalTheme = SIXTEEN) -> Shade:
    return Shade(*(color or Color.default()).get_truecolor(terminal, foreground))


def faint(app: SlimApp, sixteen: bool = False) -> list[Any]:
    """Words that stand out too little from what is behind them."""
    found = []
    for y, segment in segments(app):
        words = "".join(one for one in segment.text if one not in LINES)
        style = segment.style
        if not words or style is None:
            continue
        front, back = style.color, style.bgcolor
        if sixteen:
            front, back = (one and one.downgrade(ColorSystem.STANDARD) for one in (front, back))
        pair = (shade(front, True), shade(back, False))
        ratio = contrast(*(reversed(pair) if style.reverse else pair))
        if ratio < LEAST:
            found.append((y, segment.text, round(ratio, 2), front, back))
    return found


@pytest.mark.parametrize("name", SHOWN)
async def test_words_stand_out(
    name: str, tmp_path: Path, compute: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLORTERM", "truecolor")
    async with staged(name, (80, 24), tmp_path, compute, monkeypatch) as (app, pilot):
        for theme in (DARK, LIGHT):
            app.theme = theme.name
            await pilot.pause(0.2)
            assert not faint(app), (theme.name, faint(app))
        if name in UNSHADED:
            for theme in (DARK, LIGHT_OF_SIXTEEN):
                app.register_theme(dataclasses.replace(theme, name=f"{theme.name}-16"))
                app.theme = f"{theme.name}-16"
                await pilot.pause(0.2)
                assert not faint(app, sixteen=True), (theme.name, faint(app, sixteen=True))


@pytest.mark.parametrize("name", ["home", "monitor", "generate", "chat"])
async def test_without_colour_nothing_is_lost(
    name: str, tmp_path: Path, compute: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in ("folder-a", "folder-b"):
        (tmp_path / folder).mkdir()
    async with staged(name, (80, 24), tmp_path / "folder-a", compute, monkeypatch) as (app, _):
        coloured = screen_text(app)
    monkeypatch.setenv("NO_COLOR", "1")
    engine = Engine()
    async with staged(name, (80, 24), tmp_path / "folder-b", engine, monkeypatch) as (app, _):
        grey = screen_text(app)
        colours = {
            one
            for _, segment in segments(app)
            if segment.style is not None
            for one in (segment.style.color, segment.style.bgcolor)
            if one is not None and not one.is_default
        }
        reverse = [segment for _, segment in segments(app) if segment.style and segment.style.reverse]
    engine.shut_down()
    assert coloured.replace("folder-a", "folder-b") == grey
    assert not colours, "greys are colours, too"
    assert reverse, "what a background sets off is reversed"


async def test_without_colour_a_cursor_is_seen_on_a_panel(
    tmp_path: Path, compute: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both are set off from the screen, and a panel is reversed."""
    monkeypatch.setenv("NO_COLOR", "1")
    async with staged("open-dialog", (80, 24), tmp_path, compute, monkeypatch) as (app, _):
        field = app.screen.query_one("#path").region
        styles = {
            str(segment.style.without_color)
            for y, segment in segments(app)
            if y == field.y + 1 and segment.style is not None and segment.style.reverse
        }
    assert any("underline" in style for style in styles) and len(styles) > 1


@pytest.mark.parametrize("system", ["standard", "truecolor"])
async def test_the_line_of_the_cursor_is_seen_with_few_colours(
    system: str, tmp_path: Path, compute: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("textual.constants.COLOR_SYSTEM", system)
    async with staged("home", (80, 24), tmp_path, compute, monkeypatch) as (app, _):
        chosen = [segment.style for _, segment in segments(app) if "night.bin" in segment.text]
    (style,) = chosen
    assert style is not None and bool(style.reverse) is (system == "standard")
