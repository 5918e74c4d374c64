"""How long the thread that reads the keyboard sleeps."""

from __future__ import annotations

import os
import selectors
import sys
import time

import pytest

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows selects sockets only")


def test_the_sleep_after_an_input_is_short() -> None:
    from textual import constants
    from textual.drivers import linux_driver

    from slim.tui.quick_escape import use_quick_escape

    use_quick_escape()
    use_quick_escape()
    reading, writing = os.pipe()
    selector = linux_driver.selectors.SelectSelector()
    try:
        selector.register(reading, linux_driver.selectors.EVENT_READ)
        os.write(writing, b"\x1b")
        assert [key.fd for key, _ in selector.select(0.1)] == [reading]
        os.read(reading, 1)
        slept = []
        for _ in range(2):
            began = time.perf_counter()
            assert selector.select(10.0 * constants.ESCAPE_DELAY) == []
            slept.append(time.perf_counter() - began)
        assert slept[0] < 0.9 * slept[1] and slept[1] >= 9.9 * constants.ESCAPE_DELAY
    finally:
        selector.close()
        os.close(reading)
        os.close(writing)
    assert selectors.SelectSelector is not linux_driver.selectors.SelectSelector
