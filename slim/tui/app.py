"""The dashboard's frame: its screens, keys for all of them, the tick that reads the engine, and how it ends."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from textual import events
from textual.app import SystemCommand
from textual.await_complete import AwaitComplete
from textual.binding import Binding, BindingType
from textual.color import Color
from textual.filter import Monochrome
from textual.screen import Screen
from textual.signal import Signal
from textual.widgets import Input, TextArea

from slim.compute import Engine, Job
from slim.errors import SlimError
from slim.events import Note, Progress
from slim.input_file import reason, typed_path, where_to_look
from slim.operating_system import STOP_SIGNALS
from slim.run_directory import directory_of
from slim.safe_text import safe_line
from slim.tui.ascii_lines import AsciiLines
from slim.tui.catalog import RUN_SUFFIX, looks_like_model, remember
from slim.tui.chat_screen import ChatScreen
from slim.tui.collector import Collector
from slim.tui.dialogs import OpenDialog, QuitDialog, TooSmall
from slim.tui.generate_screen import GenerateScreen
from slim.tui.glyphs import ascii_only
from slim.tui.help import HelpScreen, key_name
from slim.tui.home import HomeScreen
from slim.tui.no_color import Colourless
from slim.tui.ordered_keys import OrderedKeys
from slim.tui.palette import Palette
from slim.tui.plain_scroll_bar import use_plain_scroll_bars
from slim.tui.quick_escape import use_quick_escape
from slim.tui.run_follower import FollowedRun
from slim.tui.session import AppSession, LocalRun, OpenModel, opening
from slim.tui.suspension import Suspension
from slim.tui.theme import DARK, light
from slim.tui.train_screen import TrainScreen
from slim.tui.whole_paste import use_whole_pastes
from slim.wording import FIRST_RUN, stage_line

TICKS_PER_SECOND = 8
SECONDS_BETWEEN_NUMBERS = 1.0  # in the corner of the screen: a short run has another percent with every tick
LEAST_WIDTH, LEAST_HEIGHT = 60, 16
NOT_IN_PALETTE = (
    *("cursor", "scroll", "command_palette", "quit", "back", "leave"),
    *("screen.copy_text", "app.focus", "screen.focus", "interrupt"),
)  # what keys do and nobody looks for
SECONDS_BEFORE_ALL_IS_DRAWN = 0.2  # after the terminal is large enough again: the screen has been laid out by then
SECONDS_BEFORE_PREPARING = 0.6  # the first screen has been drawn by then


@dataclass(frozen=True, slots=True)
class Outcome:
    """How the dashboard was left. A run that still goes is the caller's from here on."""

    run: LocalRun | None = None
    signal: int | None = None
    failed: bool = False  # by a bug of ours, which was shown


class SlimApp(OrderedKeys[Outcome]):
    """Home, training, generation and chat."""

    TITLE = "SLiM"
    ENABLE_COMMAND_PALETTE = True
    COMMAND_PALETTE_BINDING = "ctrl+p"
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (100, "-wide")]  # noqa: RUF012 (as Textual declares it)
    # Textual's three lines would scroll a text of five lines wherever the mouse goes, by sixty lines a second.
    SELECT_AUTO_SCROLL_LINES = 2
    SELECT_AUTO_SCROLL_SPEED = 20.0
    MODES: ClassVar[dict[str, str | Callable[[], Screen[Any]]]] = {
        "home": HomeScreen,
        "train": TrainScreen,
        "generate": GenerateScreen,
        "chat": ChatScreen,
    }
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("f1,question_mark", "help", "Help", key_display="F1"),
        Binding("1,f2", "page('home')", "Home", show=False),
        Binding("2,f3", "page('train')", "Train", show=False),
        Binding("3,f4", "page('generate')", "Generate", show=False),
        Binding("4,f5", "page('chat')", "Chat", show=False),
        Binding("o,ctrl+o", "open", "Open", key_display="^o"),
        Binding("escape", "back", "Back", show=False),
        Binding("ctrl+q", "quit", "Quit", priority=True),
        Binding("ctrl+c", "interrupt", "Copy, or how to quit", show=False, system=True),
    ]
    CSS = """
    Screen { background: $background; color: $foreground; }
    Footer { background: $panel; }
    Footer .footer-key--key { background: transparent; }
    Footer .footer-key--description { color: $foreground 70%; }
    """

    def __init__(
        self,
        paths: Iterable[Path] = (),
        run: LocalRun | None = None,
        compute: Engine | None = None,
        folder: Path | None = None,
    ) -> None:
        """paths: a model, a text, or runs to watch   run: one that this process trains already"""
        super().__init__()
        use_quick_escape()  # both before the driver is started
        use_whole_pastes()
        if self.no_color:
            own = Colourless(lambda: Color.parse(self.current_theme.background or "black"))
            self._filters = [own if isinstance(one, Monochrome) else one for one in self._filters]
        self.session = AppSession(compute)
        self.folder = Path.cwd() if folder is None else folder
        self.ascii_only = ascii_only()
        if self.ascii_only:
            self._filters.append(AsciiLines())
        self.ticked: Signal[None] = Signal(self, "ticked")
        self.session_changed: Signal[None] = Signal(self, "session changed")
        self.doing_changed: Signal[str] = Signal(self, "doing changed")
        self._doing: str | None = None  # as it was told last; the first screen shows what was true before
        self._told_at = 0.0
        self.opening: Job[Progress | Note | OpenModel] | None = None
        self._opening_path: Path | None = None
        self._opening_from = ""  # the screen on which it was asked for
        self._stage = ""
        self._paths = list(paths)
        self._pages = ["home"]
        self._caught: int | None = None
        self._suspension: Suspension | None = None
        self._collector = Collector()
        if run is not None:
            self.session.adopt(run)

    # ---- beginning and end -----------------------------------------------------------------------------------------

    def on_mount(self) -> None:
        """The first screen, the tick, the signals."""
        self._collector.begin()
        self.register_theme(DARK)
        self.register_theme(light(self.console.color_system))
        self.theme = DARK.name
        use_plain_scroll_bars(self.ascii_only)
        with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):
            loop = asyncio.get_running_loop()
            for number in STOP_SIGNALS:
                if signal.getsignal(number) is not signal.SIG_IGN:
                    loop.add_signal_handler(number, self._on_signal, int(number))
            if self._driver is not None:
                self._suspension = Suspension(self, self._driver)
        self.switch_mode("home")
        if self.session.run is not None:
            self._go("train")
        if self._paths:
            self.call_after_refresh(self._open_all, self._paths)
        self.set_interval(1 / TICKS_PER_SECOND, self._tick)
        self.set_timer(SECONDS_BEFORE_PREPARING, self._prepare_pages)

    async def _prepare_pages(self) -> None:
        """Make the screens that nobody has visited yet, so that the first key leads there as quickly as any other.

        A fifth of a second each. Textual has no public way: without this one the first visit does it. It would also
        read all style sheets again at the first visit, as it does after a change of theme; they are up to date.
        """
        make = getattr(self, "_init_mode", None)
        for page in self.MODES:
            if make is not None and page not in self._pages:
                await make(page)
        theme = getattr(self, "_css_update_count", None)
        for stack in getattr(self, "_screen_stacks", {}).values():
            for screen in stack:
                screen._css_update_count = theme
        self._collector.settle()

    def on_unmount(self) -> None:
        """Signals and the garbage collector are the caller's again."""
        self._collector.end()
        if self._suspension is not None:
            self._suspension.end()
        with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):
            loop = asyncio.get_running_loop()
            for number in STOP_SIGNALS:
                loop.remove_signal_handler(number)

    def _on_signal(self, number: int) -> None:
        """The run is told to save; the terminal is given back at once, and the caller waits for the run."""
        if self._caught is None:
            self._caught = number
            self.leave(stop=True)

    def leave(self, stop: bool) -> None:
        """End the dashboard; a run that trains here is stopped and saved, or handed over."""
        run = self.session.run if self.session.training else None
        if run is not None:
            run.control.stop = run.control.stop or stop
            run.job.resume()
        if self.opening is not None:
            self.opening.cancel(wait=False)
        self.exit(Outcome(run, self._caught))

    async def action_quit(self) -> None:
        """Leave, after a question where a run trains."""
        if not self.session.training:
            self.leave(stop=False)
        elif not isinstance(self.screen, QuitDialog):
            self.push_screen(QuitDialog(), self._on_quit_answer)

    def _on_quit_answer(self, answer: str | None) -> None:
        if answer in ("keep", "stop"):
            self.leave(stop=answer == "stop")

    def action_interrupt(self) -> None:
        """Ctrl-C copies what is selected, and otherwise says how to leave."""
        text = self.screen.get_selected_text()
        if text:
            self.copy_to_clipboard(text)
            self.notify("copied", timeout=2)
        else:
            self.notify("ctrl+q quits", timeout=3)

    # ---- the tick --------------------------------------------------------------------------------------------------

    def _tick(self) -> None:
        """Read all jobs; whoever shows something looks whether it is new."""
        session = self.session
        if session.run is not None and session.run not in session.watched:
            session.run.poll()
        before = session.training
        for run in session.watched:
            run.poll()
        if session.training != before or (before and session.run and session.run.ended):
            self.session_changed.publish(None)
        if self.opening is not None:
            self._read_opening(self.opening)
        self._tell_doing(self.doing())
        self.ticked.publish(None)

    def _tell_doing(self, doing: str) -> None:
        """Let the corner of every screen show what is going on: something else at once, its numbers now and then."""
        if doing == self._doing:
            return
        another = self._doing is None or doing.split()[:1] != self._doing.split()[:1]
        if another or time.monotonic() - self._told_at >= SECONDS_BETWEEN_NUMBERS:
            self._doing, self._told_at = doing, time.monotonic()
            self.doing_changed.publish(doing)

    def _read_opening(self, job: Job[Progress | Note | OpenModel]) -> None:
        try:
            events = job.poll()
        except Exception as problem:
            self.opening, self._stage = None, ""
            self.complain(problem)
            return
        for event in events:
            if isinstance(event, Progress):
                self._stage = stage_line(event)
            elif isinstance(event, Note):
                self.notify(safe_line(event.text), markup=False, timeout=8)
            else:
                self.session.opened = event
                self._remember(event.path)
                self.session_changed.publish(None)
                self.notify(f"{safe_line(event.name)} is open", markup=False, timeout=3)
                stayed = self._pages[-1] == self._opening_from and not self.screen.is_modal
                if stayed and self._opening_from not in ("generate", "chat"):
                    self._go("generate")  # whoever has gone elsewhere meanwhile, or answers a dialog, stays there
        if job.done:
            self.opening, self._stage = None, ""

    def doing(self) -> str:
        """What is going on, for the corner of every screen."""
        if self.opening is not None:
            name = self._opening_path.name if self._opening_path is not None else ""
            return f"{self._stage.removesuffix(FIRST_RUN) or 'opening'} {name}"
        run = self.session.run
        if run is not None and run.training:
            state = run.view.state
            if run.paused:
                return f"paused at step {state.step:,}"
            total = run.view.total_steps
            share = f" {100 * state.step // total} %" if total else ""
            return f"{'stopping' if run.control.stop else 'training'} {run.name}{share}"
        model = self.session.opened
        return model.name if model is not None else ""

    def complain(self, problem: Exception) -> None:
        """Show an error that ended nothing but what was asked for."""
        known = isinstance(problem, SlimError | OSError)
        text = str(problem) if known else f"{type(problem).__name__}: {problem}"
        self.notify(safe_line(text), severity="error", markup=False, timeout=12)

    def _remember(self, path: Path | None) -> None:
        if path is not None:
            problem = remember(path)
            if problem is not None:
                self.notify(safe_line(problem), severity="warning", markup=False)

    # ---- going about -----------------------------------------------------------------------------------------------

    def _go(self, page: str) -> None:
        while self.screen.is_modal and not isinstance(self.screen, TooSmall):
            self.screen.dismiss(None)  # such as the palette, opened anew before its last command was done
        if page != self._pages[-1]:
            self._pages.append(page)
            del self._pages[:-20]
        self.switch_mode(page)

    def action_page(self, page: str) -> None:
        """Go to a screen."""
        if not self.screen.is_modal:
            self._go(page)

    def action_back(self) -> None:  # type: ignore[override]
        """Out of a text field, else to the screen before."""
        if isinstance(self.screen, TooSmall):
            return
        if self.screen.is_modal:
            self.pop_screen()
        elif isinstance(self.focused, Input | TextArea):
            self.screen.set_focus(None)
        elif len(self._pages) > 1:
            self._pages.pop()
            self.switch_mode(self._pages[-1])
        elif self._pages[-1] != "home":
            self._pages = ["home"]
            self.switch_mode("home")

    def pop_screen(self) -> AwaitComplete:
        """Close a dialog. One that was answered twice in a hurry is closed already, and a page is none."""
        return super().pop_screen() if len(self.screen_stack) > 1 else AwaitComplete.nothing()

    def action_command_palette(self) -> None:
        """All commands, but not over the palette, nor over what says that there is no room."""
        if not isinstance(self.screen, Palette | TooSmall):
            self.push_screen(Palette(id="--command-palette"))

    def action_help(self) -> None:
        """Keys of what has the focus, then of everything."""
        if not isinstance(self.screen, HelpScreen):
            self.push_screen(HelpScreen(self.screen))

    def action_open(self) -> None:
        """Ask for a path."""
        if not self.screen.is_modal:
            self.push_screen(OpenDialog(self.folder), self._on_path)

    def _on_path(self, path: Path | None) -> None:
        if path is not None:
            self.open_path(path)

    def _open_all(self, paths: list[Path]) -> None:
        """What the command line named: runs are laid over each other, anything else is opened."""
        if len(paths) > 1:
            self.watch_runs(paths)
        else:
            self.open_path(paths[0])

    def open_path(self, path: Path) -> None:
        """Open a model, watch a run, or train on a text or a folder of texts: what it is, decides."""
        path = typed_path(path)
        try:
            if path.is_dir() and path.name.endswith(RUN_SUFFIX):
                self.watch_runs([path])
            elif not path.exists():
                self.complain(OSError(f"{path}: there is no such file{where_to_look(path)}"))
            elif looks_like_model(path):
                self.open_model(path)
            else:
                self.train_on(path)
        except OSError as problem:
            self.complain(OSError(f"{path}: {reason(problem)}"))

    def open_model(self, path: Path) -> None:
        """Read a model, in the engine thread."""
        if self.opening is not None:
            self.opening.cancel(wait=False)
        self._opening_path, self._opening_from, self._stage = path, self._pages[-1], ""
        self.opening = self.session.engine.submit(opening(path))
        self.session_changed.publish(None)

    def watch_runs(self, paths: Iterable[Path]) -> None:
        """Show runs of other processes, the first in detail; one of this process as what it is."""
        runs: list[LocalRun | FollowedRun] = []
        own = self.session.run
        for path in paths:
            out = path.with_name(path.name.removesuffix(RUN_SUFFIX))
            if own is not None and own.training and Path(own.out).absolute() == out.absolute():
                runs.append(own)
            elif os.path.isdir(directory_of(out)):
                runs.append(FollowedRun(out, self.session.engine))
                self._remember(out)
            else:
                self.complain(OSError(f"{directory_of(out)}: there is no such run"))
        if runs:
            self.session.watched = runs
            self.session_changed.publish(None)
            self._go("train")

    def train_on(self, path: Path) -> None:
        """The form for a new run, filled in for a text."""
        self._go("train")
        screen = self.get_screen_stack("train")[0]  # a dialog may still lie on it
        if isinstance(screen, TrainScreen):
            screen.show_form(path)

    def began(self, run: LocalRun) -> None:
        """A run was begun: show it."""
        self._remember(Path(run.out))
        self.session_changed.publish(None)
        self._go("train")

    # ---- the palette -----------------------------------------------------------------------------------------------

    def get_system_commands(self, screen: Screen[Any]) -> Iterator[SystemCommand]:
        """What the palette offers: the keys of the screen with their words, and some of Textual's own."""
        wanted = {"Theme", "Quit", "Screenshot"}
        for command in super().get_system_commands(screen):
            if command.title in wanted:
                yield command
        seen = set()
        for node, binding, enabled, _ in screen.active_bindings.values():
            if not enabled or not binding.description or (node, binding.description) in seen:
                continue
            if binding.action.startswith(NOT_IN_PALETTE):
                continue
            seen.add((node, binding.description))
            words = f"{binding.tooltip}; " if binding.tooltip else ""
            yield SystemCommand(
                binding.description,
                f"{words}key: {key_name(binding.key)}",
                lambda action=binding.action, node=node: self.call_next(self.run_action, action, node),
            )

    def on_resize(self, event: events.Resize) -> None:
        """Below the least size there is one sentence instead of ruins."""
        small = event.size.width < LEAST_WIDTH or event.size.height < LEAST_HEIGHT
        if small and not isinstance(self.screen, TooSmall):
            self.push_screen(TooSmall(LEAST_WIDTH, LEAST_HEIGHT), self._on_large_enough)
        elif not small and isinstance(self.screen, TooSmall):
            self.screen.dismiss()

    def _on_large_enough(self, _: None) -> None:
        self.set_timer(SECONDS_BEFORE_ALL_IS_DRAWN, self._draw_all)

    def _draw_all(self) -> None:
        """Everything anew: Textual leaves holes in a screen that comes back in another size, where notices were."""
        self.refresh(layout=True)
