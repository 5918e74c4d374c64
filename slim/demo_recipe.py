"""The run that `slim demo` and an empty dashboard begin: a small model of the stories that ship with SLiM."""

from __future__ import annotations

from slim.demo_text import STORIES, demo_text
from slim.request import Request
from slim.settings import Settings

# Chosen by runs that are listed in the README: the stories are few, so what matters is not to learn them by heart.
MINUTES = 4.0  # from the start of the program to its end, first compilation included
OUT = "slim-demo.bin"
PROMPT = "Once upon a time"
RECIPE: dict[str, object] = {
    "preset": "small",
    "vocab_size": 2048,
    "weight_decay": 1.0,
    "sample_every": 25,
    "sample_tokens": 70,
    "sample_prompts": (PROMPT,),
}
CLOSING_SECONDS = 12.0  # of MINUTES, for the last files and the stories
LEAST_SECONDS = 5.0  # of training, however long compiling took
EPOCHS = 7.0  # at most: more make the held-out stories less likely again


def demo_request(
    out: str, seconds: float, threads: int | None = None, force: bool = False
) -> Request:
    """A run of at most so many seconds; DataError when the text is missing from the installation."""
    settings = {**RECIPE, "minutes": max(seconds, LEAST_SECONDS) / 60.0}
    if threads is not None:
        settings["threads"] = threads
    return Request(
        command="pretrain",
        data=str(demo_text(STORIES)),
        epochs=EPOCHS,
        out=out,
        settings=Settings(settings),
        force=force,
    )
