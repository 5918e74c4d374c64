"""The run that `slim demo` and an empty dashboard begin: a small model of the stories that ship with SLiM."""

from __future__ import annotations

from slim.demo_text import STORIES, demo_text
from slim.request import Request
from slim.settings import Settings

# A first choice, not yet compared with other sizes.
MINUTES = 4.0  # from the start of the program to its end, first compilation included
OUT = "slim-demo.bin"
PROMPT = "Once upon a time"
RECIPE: dict[str, object] = {
    "preset": "small",
    "vocab_size": 2048,
    "sample_every": 25,
    "sample_tokens": 70,
    "sample_prompts": (PROMPT,),
}
CLOSING_SECONDS = 12.0  # of MINUTES, for the last files and the stories
LEAST_SECONDS = 5.0  # of training, however long compiling took
ENDLESS = 1_000.0  # epochs: the clock ends the run


def demo_request(
    out: str, seconds: float, threads: int | None = None, force: bool = False
) -> Request:
    """A run of about so many seconds; DataError when the text is missing from the installation."""
    settings = {**RECIPE, "minutes": max(seconds, LEAST_SECONDS) / 60.0}
    if threads is not None:
        settings["threads"] = threads
    return Request(
        command="pretrain",
        data=str(demo_text(STORIES)),
        epochs=ENDLESS,
        out=out,
        settings=Settings(settings),
        force=force,
    )
