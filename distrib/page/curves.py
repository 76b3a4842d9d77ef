"""Reads metrics.jsonl as columns of numbers, thinned out to what a page can show."""

import json
import math
from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from distrib.files import open_regular
from distrib.layout import LARGEST_METRICS, LONGEST_LINE_OF_METRICS

Column = NDArray[np.float64]  # one value a line, NaN where the line has none

MOST_POINTS = 1500  # of a curve; a screen has no more
_OF_STEPS = ("loss", "lr", "applied", "seconds", "data_seconds", "gradient_norm", "loss_scale")
_OF_EPOCHS = (
    *("epoch", "train_loss", "test_loss", "test_accuracy", "lr", "skipped_steps"),
    *("images_per_second", "flop_per_second", "data_share", "flop", "peak_memory"),
)


@dataclass(frozen=True, slots=True)
class Lines:
    """The lines of one kind: their steps, which grow, and by name what else they say."""

    steps: Column
    values: Mapping[str, Column]

    def __len__(self) -> int:
        return len(self.steps)

    def has(self, name: str) -> bool:
        """Return whether any line has a number of this name."""
        return bool(np.isfinite(self.values[name]).any())


@dataclass(frozen=True, slots=True)
class Curve:
    """What is drawn of one quantity: for each point its first and last step, and the mean, the lowest and the highest value of
    these.

    Where a point is one step, `until`, `low` and `high` are empty.
    """

    steps: Column
    mean: Column
    low: Column
    high: Column
    until: Column


def read(path: Path) -> tuple[Lines, Lines]:
    """Return the lines of steps and those of epochs; none of a file that is missing.

    A line that is cut short or says something else is passed over. Raises OSError, and ValueError for what is no regular file.
    """
    found = {"step": _Columns(_OF_STEPS), "epoch": _Columns(_OF_EPOCHS)}
    try:
        with open_regular(path, LARGEST_METRICS) as file:
            for line in _objects(file):
                if (columns := found.get(str(line.get("kind")))) is not None:
                    columns.append(line)
    except FileNotFoundError:
        pass
    return found["step"].lines(), found["epoch"].lines()


def thinned(steps: Column, values: Column, most: int = MOST_POINTS) -> Curve:
    """Return the curve of a quantity, with at most so many points of equally many lines each."""
    width = -(-len(steps) // most)
    nothing = np.empty(0)
    if width <= 1:
        return Curve(steps, values, nothing, nothing, nothing)
    first = np.arange(0, len(steps), width)
    there = np.isfinite(values)
    counts = np.add.reduceat(there.astype(float), first)
    sums = np.add.reduceat(np.where(there, values, 0.0), first)
    mean = np.divide(sums, counts, out=np.full(len(first), math.nan), where=counts > 0)
    missing = counts == 0
    low = np.where(missing, math.nan, np.minimum.reduceat(np.where(there, values, math.inf), first))
    high = np.where(missing, math.nan, np.maximum.reduceat(np.where(there, values, -math.inf), first))
    return Curve(steps[first], mean, low, high, steps[np.minimum(first + width, len(steps)) - 1])


class _Columns:
    """Gathers lines of one kind."""

    def __init__(self, names: tuple[str, ...]) -> None:
        self._steps = array("d")
        self._values = {name: array("d") for name in names}

    def append(self, line: Mapping[str, Any]) -> None:
        """Add a line, unless its step is none, or not behind the last one."""
        step = _number(line.get("step"))
        if not step > (self._steps[-1] if self._steps else 0):  # NaN is not either
            return
        self._steps.append(step)
        for name, column in self._values.items():
            column.append(_number(line.get(name)))

    def lines(self) -> Lines:
        return Lines(np.array(self._steps), {name: np.array(column) for name, column in self._values.items()})


def _objects(file: BinaryIO) -> Iterator[dict[str, Any]]:
    while line := file.readline(LONGEST_LINE_OF_METRICS):
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict):
            yield value


def _number(value: object) -> float:
    """Return the value if it is a number that a run may have, true and false among them, and NaN otherwise."""
    if isinstance(value, (int, float)) and -1e30 < value < 1e30:
        return float(value)
    return math.nan
