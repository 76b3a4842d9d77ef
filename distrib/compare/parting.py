"""Finds the first step at which a number of two runs differs at all, and the first at which it does by more than a thousandth."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from distrib.page.curves import Column
from distrib.page.run_files import RunFiles

_THOUSANDTH = 1e-3
"""Relative. Other kernels, threads or numbers of ranks change last bits. These differences grow from step to step, and in bf16
they reach a thousandth within tens of steps; most mistakes are as large at once."""
_CLOCKS = ("seconds", "data_seconds")
"""What depends on how busy the machine was."""


@dataclass(frozen=True, slots=True)
class Parting:
    """A step, the quantity that differs there, and its two values; None for a run that does not have it."""

    step: int
    quantity: str
    first: float | None
    other: float | None

    def __str__(self) -> str:
        return f"step {self.step}, {self.quantity}: {_shown(self.first)} and {_shown(self.other)}"


def first_difference(one: RunFiles, other: RunFiles) -> Parting | None:
    """Return the first step that both have at which something is not exactly the same; None if there is none."""
    return _first(one, other, 0.0)


def first_beyond_thousandth(one: RunFiles, other: RunFiles) -> Parting | None:
    """Return the first step at which a number differs by more than a thousandth of it; None if there is none."""
    return _first(one, other, _THOUSANDTH)


def common_steps(one: RunFiles, other: RunFiles) -> int:
    """Return how many steps both have."""
    return len(np.intersect1d(one.steps.steps, other.steps.steps))


def differing_keys(runs: Sequence[RunFiles]) -> dict[str, list[Any]]:
    """Return the keys of the configuration that are not the same in all runs, each with its values by run."""
    keys = sorted({key for run in runs for key in run.config})
    values = {key: [run.config.get(key) for run in runs] for key in keys}
    return {key: its for key, its in values.items() if any(each != its[0] for each in its)}


def _first(one: RunFiles, other: RunFiles, tolerance: float) -> Parting | None:
    steps, left, right = np.intersect1d(one.steps.steps, other.steps.steps, return_indices=True)
    found: Parting | None = None
    for quantity in (name for name in one.steps.values if name not in _CLOCKS):
        ours, theirs = one.steps.values[quantity][left], other.steps.values[quantity][right]
        places = np.flatnonzero(_differ(ours, theirs, tolerance))
        if len(places) and (found is None or steps[places[0]] < found.step):
            at = places[0]
            found = Parting(int(steps[at]), quantity, _number(float(ours[at])), _number(float(theirs[at])))
    return found


def _differ(ours: Column, theirs: Column, tolerance: float) -> "np.ndarray[tuple[int], np.dtype[np.bool_]]":
    near = np.abs(ours - theirs) <= tolerance * np.maximum(np.abs(ours), np.abs(theirs))
    return ~(near | (np.isnan(ours) & np.isnan(theirs)))


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value


def _shown(value: float | None) -> str:
    return "nothing" if value is None else f"{value:.9g}"
