"""`python -m slim` is `slim`."""

from __future__ import annotations

import sys

from slim.cli import main

sys.exit(main())
