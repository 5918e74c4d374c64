"""The pictures of the README, from a model and its run: `python demo/screenshots.py stories.bin`.

Written to demo/pictures/ as SVG, as the dashboard draws them; fonts are those of the reader, and the dots of the curves
are drawn as shapes, because few fonts have them.
"""

from __future__ import annotations

import argparse
import asyncio
import html
import os
import re
import sys
import tempfile
from pathlib import Path

from slim.run_directory import directory_of
from slim.tui.app import SlimApp

PICTURES = Path(__file__).parent / "pictures"
SIZE = (116, 34)
CELL_WIDTH, CELL_HEIGHT, BASELINE = 12.2, 24.4, 18.5  # of the SVG that Textual writes
DOT = 2.6
FONTS = '"Fira Code", "DejaVu Sans Mono", Menlo, Consolas, monospace'
_TEXT = re.compile(r'<text class="([^"]+)" x="([\d.]+)" y="([\d.]+)"([^>]*)>([^<]*)</text>')
# Dots of braille, bit by bit: column and row.
_DOTS = ((0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2), (0, 3), (1, 3))


def portable(svg: str) -> str:
    """The picture without fonts from elsewhere, and with shapes for braille."""
    svg = re.sub(r"@font-face \{.*?\}", "", svg, flags=re.DOTALL)
    svg = re.sub(r"font-family: (?:Fira Code|monospace)[^;]*;", f"font-family: {FONTS};", svg)
    return _TEXT.sub(_drawn, svg)


def _drawn(found: re.Match[str]) -> str:
    style, x, y, rest, text = found.groups()
    characters = html.unescape(text)
    path = []
    for at, character in enumerate(characters):
        bits = ord(character) - 0x2800
        if not 0 < bits < 256:
            continue
        for bit, (column, row) in enumerate(_DOTS):
            if bits >> bit & 1:
                left = float(x) + (at + 0.25 + 0.5 * column) * CELL_WIDTH - DOT / 2
                top = float(y) - BASELINE + (0.125 + 0.25 * row) * CELL_HEIGHT - DOT / 2
                path.append(f"M{left:.1f} {top:.1f}h{DOT}v{DOT}h-{DOT}z")
    if not path:
        return found.group(0)
    left_over = "".join("\xa0" if 0x2800 <= ord(one) < 0x2900 else one for one in characters)
    shapes = f'<path class="{style}" d="{"".join(path)}"/>'
    if not left_over.strip("\xa0 "):
        return shapes
    words = html.escape(left_over).replace("\xa0", "&#160;")
    return f'<text class="{style}" x="{x}" y="{y}"{rest}>{words}</text>{shapes}'


async def take(model: Path) -> None:
    """All pictures."""
    PICTURES.mkdir(exist_ok=True)
    os.chdir(model.parent)  # names without a path, in the pictures
    model = Path(model.name)
    app = SlimApp([directory_of(model)])
    async with app.run_test(size=SIZE, notifications=True) as pilot:

        async def picture(name: str) -> None:
            await pilot.pause(1.0)
            (PICTURES / f"{name}.svg").write_text(
                portable(app.export_screenshot(title="SLiM")), encoding="utf-8"
            )

        await pilot.pause(3.0)
        for _ in range(3):
            await pilot.press("right_square_bracket")
        await picture("training")
        app.open_model(model)
        while app.session.open_model is None or app.opening is not None:
            await pilot.pause(0.2)
        await pilot.pause(4.0)  # until the words about the opened model are gone
        await pilot.press(*"Once there was a little fox", "enter")
        await pilot.pause(8.0)
        await picture("generate")


def main() -> None:
    """Parse the arguments and take the pictures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("model", type=Path, help="a model whose run directory lies beside it")
    arguments = parser.parse_args()
    if not directory_of(arguments.model).is_dir():
        sys.exit(f"{arguments.model}: has no run directory beside it")
    os.environ.update(COLORTERM="truecolor", TERM="xterm-256color", LANG="C.UTF-8")
    with (
        tempfile.TemporaryDirectory() as state
    ):  # so that nobody's list of recent models is touched
        os.environ["XDG_STATE_HOME"] = state
        asyncio.run(take(arguments.model.absolute()))


if __name__ == "__main__":
    main()
