"""Where the text that ships with SLiM lies: in demo/ of a checkout, inside an installed package."""

from __future__ import annotations

from pathlib import Path

from slim.errors import DataError

PACKAGE = Path(__file__).resolve().parent
STORIES = "stories.txt"
SCRIPT = "lighthouse-script.txt"


def demo_text(name: str) -> Path:
    """The path of STORIES or SCRIPT; DataError when the installation is not whole."""
    for folder in (PACKAGE / "_demo", PACKAGE.parent / "demo"):
        if (folder / name).is_file():
            return folder / name
    raise DataError(f"{name} is missing from this installation: install SLiM again")
