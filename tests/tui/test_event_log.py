"""The log of a run: what is selected with the mouse, where the view stays, how lines are broken."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from textual.app import App, ComposeResult
from textual.pilot import Pilot

from slim.events import Note
from slim.tui.event_log import TIME_CELLS, EventLog
from slim.tui.run_view import LOG_LINES, RunView


class LogApp(App[None]):
    def compose(self) -> ComposeResult:
        yield EventLog()

    @property
    def log_shown(self) -> EventLog:
        return self.query_one(EventLog)

    def screen_text(self) -> str:
        return "\n".join(strip.text for strip in self.screen._compositor.render_strips())


def with_log(texts: list[str], body: Callable[[LogApp, Pilot[None], RunView], Awaitable[None]]) -> None:
    async def run() -> None:
        app, view = LogApp(), RunView("x.bin")
        view.add_all(Note(text) for text in texts)
        async with app.run_test(size=(40, 8)) as pilot:
            await pilot.pause()
            app.log_shown.show(view)
            await pilot.pause()
            await body(app, pilot, view)

    asyncio.run(run())


def test_what_is_selected_is_copied_without_the_breaks_that_are_only_shown() -> None:
    async def body(app: LogApp, pilot: Pilot[None], view: RunView) -> None:
        assert "validation after step 20: " in app.screen_text() and "loss 2.7" in app.screen_text()
        await pilot.mouse_down(EventLog, offset=(1 + TIME_CELLS, 1))
        await pilot.hover(EventLog, offset=(1 + TIME_CELLS + 8, 3))
        await pilot.mouse_up(EventLog, offset=(1 + TIME_CELLS + 8, 3))
        await pilot.pause()
        assert app.screen.get_selected_text() == "validation after step 20: loss 2.733, 2.000 bits/byte\n0:00 saved x.b"

    long = "validation after step 20: loss 2.733, 2.000 bits/byte"
    with_log(["begun", long, "saved x.bin"], body)


def test_a_log_that_becomes_lower_stays_at_its_end() -> None:
    """As when a notice comes above it, of which the last line tells more."""

    async def body(app: LogApp, pilot: Pilot[None], view: RunView) -> None:
        for height in (5, 8, 3):
            await pilot.resize_terminal(40, height)
            await pilot.pause()
            assert "line 29" in app.screen_text()
        app.log_shown.scroll_to(y=5, animate=False, immediate=True)
        await pilot.resize_terminal(40, 6)
        await pilot.pause()
        assert "line 5" in app.screen_text() and "line 29" not in app.screen_text()

    with_log([f"line {i}" for i in range(30)], body)


def test_the_end_is_followed_only_where_it_is_in_view() -> None:
    async def body(app: LogApp, pilot: Pilot[None], view: RunView) -> None:
        assert "line 29" in app.screen_text()
        app.log_shown.scroll_to(y=5, animate=False, immediate=True)
        view.add_all(Note(f"line {i}") for i in range(30, 40))
        app.log_shown.show(view)
        await pilot.pause()
        assert "line 5\n" in app.screen_text().replace(" \n", "\n").replace("  ", "") or "line 5 " in app.screen_text()
        assert "line 39" not in app.screen_text()
        app.log_shown.scroll_end(animate=False, immediate=True)
        view.add_all([Note("the last")])
        app.log_shown.show(view)
        await pilot.pause()
        assert "the last" in app.screen_text()

    with_log([f"line {i}" for i in range(30)], body)


def test_a_long_log_keeps_its_latest_lines_and_the_place_that_is_read() -> None:
    async def body(app: LogApp, pilot: Pilot[None], view: RunView) -> None:
        app.log_shown.scroll_to(y=LOG_LINES - 100, animate=False, immediate=True)
        await pilot.pause()
        before = app.screen_text()
        view.add_all(Note(f"line {i}") for i in range(LOG_LINES, LOG_LINES + 50))
        app.log_shown.show(view)
        await pilot.pause()
        words = [line.split()[1:3] for line in before.splitlines()]
        assert [line.split()[1:3] for line in app.screen_text().splitlines()] == words
        assert app.log_shown.text.startswith("0:00 line 50\n") and app.log_shown.text.count("\n") == LOG_LINES - 1

    with_log([f"line {i}" for i in range(LOG_LINES)], body)


def test_lines_are_broken_again_for_another_width_and_the_place_stays() -> None:
    async def body(app: LogApp, pilot: Pilot[None], view: RunView) -> None:
        app.log_shown.scroll_to(y=30, animate=False, immediate=True)
        await pilot.pause()
        first = app.screen_text().splitlines()[0]
        assert "number 15 of" in first
        await pilot.resize_terminal(80, 8)
        await pilot.pause()
        assert "number 15 of those that need two lines" in app.screen_text().splitlines()[0]
        await pilot.resize_terminal(40, 8)
        await pilot.pause()
        assert app.screen_text().splitlines()[0] == first

    with_log([f"number {i} of those that need two lines" for i in range(40)], body)
