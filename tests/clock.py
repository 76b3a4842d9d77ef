"""A clock that tests set."""


class FakeClock:
    """It stands still until a test changes `now`. It takes the place of the time module, or of a function of it."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    monotonic = perf_counter = __call__
