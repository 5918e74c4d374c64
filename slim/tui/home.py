"""The first screen: what there is, and the key that leads on."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, cast

from rich.cells import cell_len
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.widgets import DataTable, Footer, Static

from slim import demo_recipe
from slim.errors import SlimError
from slim.run_directory import directory_of
from slim.safe_text import safe_line
from slim.tui.catalog import Entry, catalog, read_recent
from slim.tui.top_bar import TopBar
from slim.tui.whole_screen import WholeScreen
from slim.wording import mega

if TYPE_CHECKING:
    from slim.compute import Job
    from slim.tui.app import SlimApp

SECONDS_BETWEEN_LOOKS = 2.0
LOGO = """\
 ███████ ██      ██ ███    ███
 ██      ██         ████  ████
 ███████ ██      ██ ██ ████ ██
      ██ ██      ██ ██  ██  ██
 ███████ ███████ ██ ██      ██"""
ASCII_LOGO = LOGO.replace("█", "#")
MOTTO = "Train and run small language models on this computer, offline."
COLUMNS = (("state", 20), ("bits/byte", 9), ("weights", 7), ("size", 6), ("age", 6))
LEAST_NAME = 13
USUAL_NAME = 32  # cells for names where there is room, and more only for longer ones: the columns stay together
LEAST_FOR_ALL = 78  # cells from which all columns have room
LEFT_OUT = ("weights", "size")  # below that
MARGINS = 4  # the greatest on either side, left for all by Textual
STATE_WORDS = {"model": "model", "finished": "trained"}
MARKS = {
    "training": ("●", "*"), "stopped": ("◐", "o"), "finished": ("✓", "+"),
    "model": ("✓", "+"), "unreadable": ("✗", "x"),
}  # fmt: skip
COLORS = {"training": "$accent", "stopped": "$warning", "unreadable": "$error"}


class Home(Vertical):
    """The logo, a sentence, the list."""


class EntryTable(DataTable[Content], inherit_bindings=False):
    """Models and runs; Enter opens."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "select_cursor", "Open", key_display="Enter"),
        Binding("up", "cursor_up", "one up", show=False),
        Binding("down", "cursor_down", "one down", show=False),
        Binding("pageup", "page_up", "a page up", show=False),
        Binding("pagedown", "page_down", "a page down", show=False),
        Binding("home,ctrl+home", "scroll_top", "to the first", show=False),
        Binding("end,ctrl+end", "scroll_bottom", "to the last", show=False),
    ]


class HomeScreen(WholeScreen[None]):
    """Models and runs in this folder and those that were opened lately."""

    VERTICAL_BREAKPOINTS = [(0, "-low"), (22, "-usual")]  # noqa: RUF012 (as Textual declares it)
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "first_model", "Train the stories", show=False),
        Binding("n", "new_run", "New", tooltip="the form for a new model"),
        Binding("w", "watch", "Watch", tooltip="the run of the selected model"),
        Binding("r", "resume", "Resume", tooltip="go on with a run that was stopped"),
        Binding("f", "finetune", "Finetune", tooltip="teach the selected model another text"),
    ]  # fmt: skip
    CSS = """
    HomeScreen #logo { color: $primary; margin: 1 0 0 2; height: 5; }
    HomeScreen #motto { color: $foreground 70%; margin: 0 0 0 3; height: 1; }
    HomeScreen #next { margin: 1 1 1 3; height: auto; }
    HomeScreen EntryTable { margin: 0 1 0 2; height: 1fr; background: $background; }
    HomeScreen EntryTable { overflow-x: hidden; scrollbar-size-vertical: 1; }
    HomeScreen EntryTable:focus { background-tint: transparent; }
    HomeScreen EntryTable > .datatable--header { background: $background; color: $secondary; text-style: none; }
    HomeScreen EntryTable > .datatable--cursor { background: $panel; color: $foreground; }
    HomeScreen #detail { margin: 0 1 0 3; height: auto; max-height: 2; color: $foreground 70%; }
    HomeScreen.-few-colours EntryTable > .datatable--cursor { text-style: bold reverse; }
    HomeScreen.-empty EntryTable { display: none; }
    HomeScreen.-empty #next { margin: 2 1 2 3; }
    HomeScreen.-low #logo { display: none; }
    HomeScreen.-low #motto { height: auto; margin: 1 0 0 3; }
    HomeScreen.-low #detail { max-height: 1; }
    """

    def __init__(self) -> None:
        super().__init__()
        self._job: Job[list[Entry]] | None = None
        self._looked = 0.0
        self._entries: list[Entry] | None = None
        self._ages_shown: list[str] = []
        self._name_width = LEAST_NAME
        self._wanted = USUAL_NAME  # cells of the longest name
        self._columns = list(COLUMNS)

    @property
    def slim_app(self) -> SlimApp:
        """The app, with its type."""
        return cast("SlimApp", self.app)

    @property
    def table(self) -> EntryTable:
        return self.query_one(EntryTable)

    def compose(self) -> ComposeResult:
        """Top bar, logo, sentence, list, footer."""
        yield TopBar("home")
        with Home():
            yield Static(ASCII_LOGO if self.slim_app.ascii_only else LOGO, id="logo", markup=False)
            yield Static(MOTTO, id="motto")
            yield Static("looking for models ...", id="next")
            yield EntryTable(cursor_type="row", zebra_stripes=False)
            yield Static("", id="detail")
        yield Footer(show_command_palette=False)

    def on_mount(self) -> None:
        """The columns, and the first look."""
        # Among sixteen colours that of the cursor's line is the screen's own.
        self.set_class(self.app.console.color_system == "standard", "-few-colours")
        self._make_columns()
        self.slim_app.ticked.subscribe(self, lambda _: self._tick(), immediate=True)
        self._look()

    def on_screen_resume(self) -> None:
        """What there is may have changed meanwhile."""
        self._look()

    def on_resize(self) -> None:
        """Names get the room that is left."""
        self._make_columns()
        if self._entries is not None:
            self._show(self._entries)

    def _make_columns(self) -> None:
        few = self.size.width < LEAST_FOR_ALL
        self._columns = [one for one in COLUMNS if not few or one[0] not in LEFT_OUT]
        taken = sum(width + 2 for _, width in self._columns) + 2
        self._name_width = max(min(self.size.width - taken - MARGINS, self._wanted), LEAST_NAME)
        self.table.clear(columns=True)
        for name, width in (("name", self._name_width), *self._columns):
            self.table.add_column(name, width=width, key=name)

    # ---- the list --------------------------------------------------------------------------------------------------

    def _look(self) -> None:
        if self._job is None:
            self._looked = time.monotonic()
            events = catalog(self.slim_app.folder, read_recent())
            self._job = self.slim_app.session.engine.submit(events)

    def _tick(self) -> None:
        if self._job is not None:
            for entries in self._job.poll():
                if entries != self._entries or self._ages(entries) != self._ages_shown:
                    self._show(entries)
            if self._job.done:
                self._job = None
        elif self.is_current and time.monotonic() - self._looked > SECONDS_BETWEEN_LOOKS:
            self._look()

    def _show(self, entries: list[Entry]) -> None:
        self._entries, self._ages_shown = entries, self._ages(entries)
        table, cursor = self.table, self.selected
        self.set_class(not entries, "-empty")
        table.clear()
        wanted = max([USUAL_NAME, *(cell_len(safe_line(entry.out.name)) for entry in entries)])
        if wanted != self._wanted:
            self._wanted = wanted
            self._make_columns()
        for entry in entries:
            table.add_row(*self._row(entry))
        if entries:
            outs = [entry.out for entry in entries]
            table.move_cursor(row=outs.index(cursor.out) if cursor and cursor.out in outs else 0)
            if self.focused is None:
                table.focus()
        else:
            self.set_focus(None)
        self._show_next()

    @staticmethod
    def _ages(entries: list[Entry]) -> list[str]:
        return [age(time.time() - entry.changed) for entry in entries]

    def _row(self, entry: Entry) -> list[Content]:
        color = COLORS.get(entry.state, "$success")
        mark = MARKS[entry.state][self.slim_app.ascii_only]
        words = STATE_WORDS.get(entry.state, entry.state)
        if entry.state in ("training", "stopped"):
            words = entry.detail.replace(" of ", "/") or words
        bits = f"{entry.bits_per_byte:9.3f}" if entry.bits_per_byte is not None else ""
        cells = {
            "state": Content.assemble((f"{mark} ", color), safe_line(words)),
            "bits/byte": Content(bits),
            "weights": Content(f"{millions(entry.n_parameters):>7}" if entry.n_parameters else ""),
            "size": Content(mega(entry.size_bytes) if entry.size_bytes else ""),
            "age": Content(age(time.time() - entry.changed)),
        }
        name = Content(shortened(safe_line(entry.out.name), self._name_width))
        return [name, *(cells[column] for column, _ in self._columns)]

    @property
    def selected(self) -> Entry | None:
        """The entry under the cursor."""
        row = self.table.cursor_row
        known = self._entries or []
        return known[row] if 0 <= row < len(known) and self.table.row_count else None

    def on_data_table_row_highlighted(self) -> None:
        """Say more of the entry under the cursor."""
        self._show_next()

    def _show_next(self) -> None:
        """The sentence that names the next key, and what there is to say of the selected entry."""
        if self._entries is None:
            return
        entry = self.selected
        key = "$accent bold"
        if entry is None:
            minutes = f"{demo_recipe.MINUTES:g}"
            words = Content.assemble(
                "No models yet.\n\n",
                ("Enter", key), f"  trains the built-in stories (about {minutes} minutes)\n",
                ("o", key), "      opens a text file, a model or a run\n",
                ("?", key), "      helps",
            )  # fmt: skip
            detail = ""
        else:
            words = Content.assemble(("Enter", key), f" {self._what_enter_does(entry)}  ")
            if entry.state == "stopped":
                words = Content.assemble(words, ("r", key), " goes on with it  ")
            if entry.has_model and entry.state != "training":
                words = Content.assemble(words, ("f", key), " finetunes it  ")
            words = Content.assemble(words, ("n", key), " trains a new one")
            folder = entry.out.parent
            where = shortened(safe_line(str(folder)), max(self.size.width - 10, 20))
            if folder == self.slim_app.folder.absolute():
                where = "this folder"
            detail = safe_line(entry.detail) if entry.state == "unreadable" else f"in {where}"
        self.query_one("#next", Static).update(words)
        self.refresh_bindings()
        self.query_one("#detail", Static).update(Content(detail))

    @staticmethod
    def _what_enter_does(entry: Entry) -> str:
        if entry.state == "training":
            return "watches it learn"
        if entry.has_model:
            return "writes with it"
        return "shows its run" if entry.has_run else "tries to open it"

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Keys that make no sense for the selected entry are not offered."""
        entry = self.selected
        if action == "resume":
            return entry is not None and entry.state == "stopped"
        if action == "watch":
            return entry is not None and entry.has_run
        if action == "finetune":
            return entry is not None and entry.has_model
        return True

    # ---- keys ------------------------------------------------------------------------------------------------------

    def on_data_table_row_selected(self) -> None:
        """Enter or a click: open the entry."""
        entry = self.selected
        if entry is None:
            return
        if entry.state == "training" or (entry.has_run and not entry.has_model):
            self.slim_app.watch_runs([directory_of(entry.out)])
        else:
            self.slim_app.open_path(entry.out)

    def action_first_model(self) -> None:
        """Nothing is there: train the stories that ship with SLiM."""
        app = self.slim_app
        if self._entries is None or self._entries or app.session.training:
            return
        out = app.folder / demo_recipe.OUT
        seconds = 60.0 * demo_recipe.MINUTES - demo_recipe.CLOSING_SECONDS
        try:
            request = demo_recipe.demo_request(str(out), seconds)
        except SlimError as problem:
            app.complain(problem)
            return
        app.began(app.session.start(request))

    def action_new_run(self) -> None:
        """The form for a new model."""
        self.slim_app.train_on(Path())

    def action_finetune(self) -> None:
        """The form for teaching the selected model another text."""
        entry = self.selected
        if entry is not None and entry.has_model:
            self.slim_app.train_on(entry.out)

    def action_watch(self) -> None:
        """The run of the selected entry."""
        entry = self.selected
        if entry is not None:
            self.slim_app.watch_runs([directory_of(entry.out)])

    def action_resume(self) -> None:
        """Go on with the run of the selected entry."""
        entry, app = self.selected, self.slim_app
        if entry is None:
            return
        if app.session.training:
            self.notify("one run at a time trains in this window", severity="warning")
        else:
            app.began(app.session.resume(str(entry.out)))


def shortened(name: str, width: int) -> str:
    """A name of at most `width` characters, its end kept: that is where names differ."""
    return (
        name if len(name) <= width else name[: width // 2 - 1] + "…" + name[-(width - width // 2) :]
    )


def millions(count: int) -> str:
    """A number of parameters."""
    return f"{count / 1e6:.1f} M" if count >= 100_000 else f"{count:,}"


def age(seconds: float) -> str:
    """How long ago, in one unit."""
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= size:
            return f"{int(seconds // size)} {unit}"
    return "now"
