"""The colours of the dashboard, for dark and for light terminals."""

from __future__ import annotations

import dataclasses

from textual.theme import Theme

DARK = Theme(
    name="slim-dark",
    primary="#7fb4e6",
    secondary="#8fa3b8",
    accent="#f2b76b",
    warning="#f2b76b",
    error="#e8788a",
    success="#8fcf9f",
    foreground="#dbe3ec",
    background="#10151c",
    surface="#161d26",
    panel="#1d2632",
    dark=True,
    variables={"footer-key-foreground": "#f2b76b", "block-cursor-text-style": "bold"},
)
LIGHT = Theme(
    name="slim-light",
    primary="#1c5d99",
    secondary="#4d6275",
    accent="#a35c00",
    warning="#a35c00",
    error="#b3203a",
    success="#1f7a3d",
    foreground="#1b2530",
    background="#fbfaf7",
    surface="#f3f1ec",
    panel="#e7e4dd",
    dark=False,
    variables={"footer-key-foreground": "#a35c00", "block-cursor-text-style": "bold"},
)

# Among sixteen colours brown is yellow on most terminals, and not to be read on white.
LIGHT_OF_SIXTEEN = dataclasses.replace(
    LIGHT,
    accent="#aa00aa",
    warning="#aa00aa",
    variables={**LIGHT.variables, "footer-key-foreground": "#aa00aa"},
)


def light(color_system: str | None) -> Theme:
    """The light theme for what a terminal can show, as Rich names it."""
    return LIGHT_OF_SIXTEEN if color_system == "standard" else LIGHT
