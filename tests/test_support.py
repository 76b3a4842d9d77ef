"""`wait_until`, with which tests wait, gives up in time."""

import time

from tests.support import wait_until


def test_waiting_has_an_end() -> None:
    since = time.monotonic()
    assert not wait_until(lambda: False, 0.1)
    assert time.monotonic() - since < 5
