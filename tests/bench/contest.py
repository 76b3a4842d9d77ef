"""Lets the loops train in turns and keeps what their epochs took."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import quantiles

from tests.bench.entrants import Entrant, Epoch, Running

Taken = dict[str, list[Epoch]]
"""The epochs of each entrant, by name, one a round."""


def run(
    entrants: Sequence[Entrant], *, steps: int, rounds: int, folder: Path, tell: Callable[[str], None] = lambda _: None
) -> Taken:
    """Return the epochs of `rounds` rounds, after one that warms up. `folder` gets a log of each entrant."""
    taken: Taken = {entrant.name: [] for entrant in entrants}
    with ExitStack() as stack:
        running: list[Running] = []
        for number, entrant in enumerate(entrants):
            tell(f"starting: {entrant.name}")
            one = stack.enter_context(Running(entrant, steps, folder / f"{number}.log"))
            one.epoch()  # it compiles, fills its caches and starts its workers before the next one begins to
            running.append(one)
        for round_ in range(1, rounds + 1):
            tell(f"round {round_} of {rounds}")
            for one in running:
                taken[one.entrant.name].append(one.epoch())
    return taken


def ratios(over: Sequence[float], under: Sequence[float]) -> list[float]:
    """Return the quartiles of the ratios of each round."""
    return quantiles([a / b for a, b in zip(over, under, strict=True)], n=4)
