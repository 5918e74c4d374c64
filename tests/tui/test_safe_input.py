"""Fields hold any text, and show nothing of it that a terminal obeys."""

from __future__ import annotations

from typing import Any

from textual.app import App, ComposeResult

from slim.tui.safe_input import SafeInput

EVIL = "evil\x1b]0;OWNED\x07\x1b[31m[red]x[/] \u202etxt \u200b\x9b\n\t\udcff.txt"


class OneField(App[None]):
    def compose(self) -> ComposeResult:
        yield SafeInput()


def line(app: App[Any]) -> str:
    field = app.query_one(SafeInput)
    return field.render_line(0).text


async def test_no_control_byte_is_shown() -> None:
    app = OneField()
    async with app.run_test(size=(80, 5)) as pilot:
        field = app.query_one(SafeInput)
        field.value = EVIL
        await pilot.pause()
        shown = line(app).rstrip()
        assert shown == "evil␛]0;OWNED␇␛[31m[red]x[/] ⇄txt ◌�␊␉�.txt"
        assert field.value == EVIL  # the file is called so


async def test_the_cursor_stands_where_it_is_seen() -> None:
    """Hidden characters take a cell each, so the end of the text is as far as the cursor goes."""
    app = OneField()
    async with app.run_test(size=(80, 5)) as pilot:
        field = app.query_one(SafeInput)
        field.value = "a\u200b\u200b\u200b\u5bbd"
        await pilot.press("end")
        assert field._position_to_cell(len(field.value)) == 1 + 3 + 2
        await pilot.press("home", "delete", "b")
        assert field.value == "b\u200b\u200b\u200b\u5bbd"


async def test_what_is_pasted_is_safe() -> None:
    app = OneField()
    async with app.run_test(size=(80, 5)) as pilot:
        from textual.events import Paste

        app.query_one(SafeInput).focus()
        app.query_one(SafeInput).post_message(Paste("x\x1b[2J\u202ey"))
        await pilot.pause()
        assert line(app).rstrip() == "x␛[2J⇄y"
