"""Every screen at three sizes, character by character, next to how it was when somebody looked at it last.

After a change that is meant: `SLIM_SNAPSHOTS=write pytest -m soak tests/tui/test_snapshots.py`; then read the difference
in Git.
"""

from __future__ import annotations

import difflib
import os
from pathlib import Path

import pytest

from scenes import SCENES, staged
from scripted import screen_text
from slim.compute import Engine

FOLDER = Path(__file__).parent / "snapshots"
SIZES = ((60, 16), (80, 24), (120, 40), (160, 50))


@pytest.mark.soak  # on a machine where much else runs, a screen may still be laid out anew when it is looked at
@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
@pytest.mark.parametrize("name", SCENES)
async def test_a_screen_is_as_it_was(
    name: str,
    size: tuple[int, int],
    tmp_path: Path,
    compute: Engine,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = tmp_path / "home"
    folder.mkdir()
    async with staged(name, size, folder, compute, monkeypatch) as (app, _):
        text = screen_text(app).replace(str(folder), "FOLDER")
    # Without the line of keys, which is made anew whenever other keys make sense, and is empty meanwhile.
    lines = [line.rstrip() for line in text.splitlines()][:-1]
    path = FOLDER / f"{name}-{size[0]}x{size[1]}.txt"
    if os.environ.get("SLIM_SNAPSHOTS") == "write":
        path.parent.mkdir(exist_ok=True)
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    known = path.read_text(encoding="utf-8").splitlines()
    difference = difflib.unified_diff(known, lines, "as it was", "as it is", lineterm="", n=1)
    assert known == lines, "\n" + "\n".join(difference)


def test_nothing_is_left_of_screens_that_are_gone() -> None:
    known = {f"{name}-{width}x{height}.txt" for name in SCENES for width, height in SIZES}
    assert known == {path.name for path in FOLDER.iterdir()}
