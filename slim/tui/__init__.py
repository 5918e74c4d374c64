"""The dashboard: Textual is used here and nowhere else. Nothing of it is imported before `run_dashboard` is called."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from slim.tui.app import Outcome
    from slim.tui.session import LocalRun

ESCAPE_DELAY = "40"  # milliseconds


def run_dashboard(paths: Iterable[Path] = (), run: LocalRun | None = None) -> Outcome:
    """Show the dashboard until it is left; what is left to be done then.

    paths: a model, a text, or runs to watch   run: one that this process trains already
    A run that still trains when the dashboard fails is told to save and stop.
    """
    # How long Textual waits whether an Escape is the beginning of another key: 100 ms, if nobody says otherwise.
    os.environ.setdefault("ESCDELAY", ESCAPE_DELAY)
    from slim.tui.app import Outcome, SlimApp

    app = SlimApp(paths, run)
    outcome = app.run()
    if outcome is not None:
        return outcome
    left = app.session.run if app.session.training else None
    if left is not None:
        left.control.stop = True
        left.job.resume()
    return Outcome(left, failed=True)
