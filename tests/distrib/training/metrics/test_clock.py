"""Seconds of steps, and those of them in which they waited for their batch."""

import pytest

from distrib.training.metrics import clock
from distrib.training.metrics.clock import Clock
from tests.clock import FakeClock


@pytest.fixture
def hands(monkeypatch: pytest.MonkeyPatch) -> FakeClock:
    found = FakeClock()
    monkeypatch.setattr(clock, "time", found)
    return found


def test_the_time_of_a_step_is_split(hands: FakeClock) -> None:
    """Two parts take 1 s each to come, the end of the batch another 0.5 s, and to compute on a part takes 3 s."""

    def batch() -> list[int]:
        seen: list[int] = []

        def parts():
            for part in (1, 2):
                hands.now += 1
                yield part
            hands.now += 0.5

        for part in watch.waiting(parts()):
            hands.now += 3
            seen.append(part)
        return seen

    watch = Clock()
    watch.start()
    assert batch() == [1, 2]
    assert watch.lap(34) == (8.5, 2.5)
    hands.now += 100  # an evaluation
    watch.start()
    first = Clock(watch.seconds, watch.data_seconds, watch.images)
    batch()
    assert watch.lap(17) == (8.5, 2.5)
    assert (watch.images, watch.seconds, watch.data_seconds) == (51, 17.0, 5.0)
    assert (watch.rate(Clock()), watch.rate(first)) == (3.0, 2.0)
    assert watch.data_share(first) == pytest.approx(2.5 / 8.5)
    assert (watch.rate(watch), watch.data_share(watch)) == (None, None)


def test_an_error_of_the_batch_comes_through() -> None:
    def parts():
        yield 1
        raise RuntimeError("no image")

    with pytest.raises(RuntimeError, match="no image"):
        list(Clock().waiting(parts()))
