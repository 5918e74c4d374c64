"""What `pretrain` makes of its arguments."""

from __future__ import annotations

import pytest

from slim.cli.pretrain import _max_bytes
from slim.errors import UsageError


@pytest.mark.parametrize(
    ("text", "size"),
    [
        (None, None),
        ("1000000", 1_000_000),
        ("1_000_000", 1_000_000),
        ("64MB", 64_000_000),
        ("64 mb", 64_000_000),
        ("64M", 64_000_000),
        ("1.5GB", 1_500_000_000),
        ("2MiB", 2 * 2**20),
        ("3k", 3000),
        ("0.1GB", 100_000_000),
        ("7b", 7),
        ("1TB", 10**12),
    ],
)
def test_sizes(text: str | None, size: int | None) -> None:
    assert _max_bytes(text) == size


@pytest.mark.parametrize(
    "text",
    [
        "",
        "0",
        "0.5",
        "-1",
        "1e6",
        "MB",
        "64 XB",
        "6,4MB",
        "2TB",
        "٣",
        "_1",
        "9" * 30,
        "1.2.3",
        "nan",
        "64MBx",
    ],
)
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(UsageError, match="MAX_BYTES must be"):
        _max_bytes(text)
