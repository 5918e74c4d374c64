"""The options of the commands that shade text; apart from the shading itself, so that `--help` stays quick."""

from __future__ import annotations

import argparse


def add_options(parser: argparse._ActionsContainer, style: str | None) -> None:
    """`--confidence` with its default (None: by where the text goes), and `--bins`."""
    default = "color on a terminal, else plain" if style is None else style
    parser.add_argument(
        "--confidence",
        choices=("color", "plain", "off"),
        default=style,
        help=f"show how expected each word was, by shading or by brackets (default {default})",
    )
    parser.add_argument(
        "--bins",
        choices=("auto", "absolute", "relative"),
        default="auto",
        help="five bins of p: .80, .50, .20, .05, or relative to what is usual for the model on held-out "
        "text (default auto: relative where the model was calibrated on some)",
    )
