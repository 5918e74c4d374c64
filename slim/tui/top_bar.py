"""The first line of every screen: the program, its screens with their keys, and what is going on."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from textual.app import ComposeResult
from textual.containers import Horizontal
from textual.content import Content
from textual.widgets import Static

from slim.safe_text import safe_line

if TYPE_CHECKING:
    from slim.tui.app import SlimApp

PAGES = (("home", "Home"), ("train", "Train"), ("generate", "Generate"), ("chat", "Chat"))


class Tab(Static):
    """One screen's name; a click goes there."""

    def __init__(self, number: int, page: str, title: str, current: bool) -> None:
        super().__init__(
            Content.assemble((f"{number} ", "$secondary"), title),
            classes="-current" if current else "",
        )
        self.page = page

    async def on_click(self) -> None:
        """Go to the screen."""
        await self.app.run_action(f"page('{self.page}')", self.app)


class TopBar(Horizontal):
    """Tabs on the left, state on the right: the run that trains and the model that is open."""

    DEFAULT_CSS = """
    TopBar { height: 1; background: $panel; dock: top; }
    TopBar > #program { width: auto; padding: 0 1; color: $primary; text-style: bold; }
    TopBar > Tab { width: auto; padding: 0 1; color: $foreground 70%; }
    TopBar > Tab:hover { color: $foreground; background: $surface; }
    TopBar > Tab.-current { color: $foreground; background: $background; text-style: bold; }
    TopBar > #doing { width: 1fr; text-align: right; padding: 0 1; color: $secondary;
        text-wrap: nowrap; text-overflow: ellipsis; }
    """

    def __init__(self, page: str) -> None:
        super().__init__()
        self._page = page

    def compose(self) -> ComposeResult:
        """The program's name, the tabs, the state."""
        yield Static("SLiM", id="program")
        for number, (page, title) in enumerate(PAGES, start=1):
            yield Tab(number, page, title, page == self._page)
        yield Static("", id="doing")

    def on_mount(self) -> None:
        """Show the state, and again whenever it changed."""
        app = cast("SlimApp", self.app)
        app.doing_changed.subscribe(self, self._show, immediate=True)
        self._show(app.doing())

    def _show(self, doing: str) -> None:
        self.query_one("#doing", Static).update(Content(safe_line(doing)), layout=False)
