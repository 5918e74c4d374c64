"""A model that says what a test wants, at the pace of the test, in a real dashboard with a real engine thread."""

from __future__ import annotations

import asyncio
import math
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from textual.pilot import Pilot

from slim.compute import Engine
from slim.events import Alternative, GenerateFinished, Note, TokenGenerated
from slim.tokenizer import Tokenizer
from slim.tui.app import SlimApp
from slim.tui.session import OpenModel

SIZE = (80, 24)


def token(
    text: str, p: float = 0.5, index: int = 0, alternatives: tuple[tuple[str, float], ...] = ()
) -> TokenGenerated:
    """A token whose id is that of its last byte."""
    listed = tuple(Alternative(id_of(one), one, share) for one, share in alternatives)
    logprob = math.log(p)
    return TokenGenerated(
        index, id_of(text), text, logprob, p, p / 2, 0.4, 1, 0.1, alternatives=listed
    )


def id_of(text: str) -> int:
    """As the tokenizer without merges has it."""
    return int(Tokenizer([]).encode(text or "?")[-1]) if text != "<|endoftext|>" else 0


def finish(reason: str = "length", kept: int = 10**6, seed: int = 11) -> GenerateFinished:
    return GenerateFinished(
        finish_reason=reason, text="", tokens=3, prompt_tokens=2, tokens_per_second=321.0,
        typical_p=0.5, perplexity=2.0, seed=seed, kept_characters=kept,
    )  # fmt: skip


class Script:
    """Stands in for `generate`: gives its events one by one, remembers what it was asked, heeds `should_stop`.

    An event that is an exception is raised; "wait" waits until it should stop.
    """

    def __init__(self, *events: Any) -> None:
        self.events = list(events)
        self.asked: list[SimpleNamespace] = []

    def __call__(
        self, model: Any, tokenizer: Any, prompt: Any, config: Any, calibration: Any = None,
        should_stop: Any = None, n_alternatives: int = 0,
    ) -> Iterator[TokenGenerated | GenerateFinished | Note]:  # fmt: skip
        ids = np.asarray(prompt).tolist()
        self.asked.append(SimpleNamespace(ids=ids, config=config, n_alternatives=n_alternatives))
        yield from self.play(should_stop)

    def play(self, should_stop: Callable[[], bool]) -> Iterator[Any]:
        for event in list(self.events):
            if isinstance(event, Exception):
                raise event
            if event == "wait":
                while not should_stop():
                    time.sleep(0.002)
                yield finish("interrupted")
                return
            yield event


def scripted_model(name: str = "stories.bin", chat: bool = False) -> OpenModel:
    """A model that computes nothing, with a tokenizer of single bytes."""
    model: Any = SimpleNamespace(config=SimpleNamespace(max_seq_len=64, vocab_size=260))
    history = [{"command": "finetune", "chat": True}] if chat else []
    return OpenModel(model, Tokenizer([]), {"history": history}, Path(name))


Body = Callable[[SlimApp, Pilot[Any]], Awaitable[None]]


def with_dashboard(
    body: Body,
    page: str,
    model: OpenModel | None,
    size: tuple[int, int] = SIZE,
    folder: Path | None = None,
) -> None:
    """Run a test body in the dashboard, on a page."""

    async def go(scratch: str) -> None:
        app = SlimApp(compute=Engine(), folder=folder or Path(scratch))
        async with app.run_test(size=size) as pilot:
            app.session.opened = model
            await pilot.pause()
            app.action_page(page)
            await pilot.pause()
            await body(app, pilot)
            app.session.engine.shut_down()

    with tempfile.TemporaryDirectory() as scratch:  # nothing is saved where the tests are run
        asyncio.run(go(scratch))


async def until(pilot: Pilot[Any], true: Callable[[], bool]) -> None:
    """Let the program go on until something holds."""
    for _ in range(500):  # the machine may be busy
        if true():
            return
        await pilot.pause(0.02)
    raise AssertionError(f"it did not come to that:\n{screen_text(pilot.app)}")  # type: ignore[arg-type]


def screen_text(app: SlimApp) -> str:
    """Everything on the screen, line by line."""
    strips = app.screen._compositor.render_strips()
    return "\n".join(strip.text for strip in strips)
