"""`wait_until`, with which tests wait, gives up in time."""

from tests.support import wait_until


def test_waiting_has_an_end() -> None:
    assert not wait_until(lambda: False, 0.1)
