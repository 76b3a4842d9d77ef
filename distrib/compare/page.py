"""The comparison as a page: the curves of all runs on one chart, and the tables."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from distrib.compare.record import Line, Record
from distrib.compare.text import COLUMNS, cells, differing, parting
from distrib.page.charts import Chart, Format, Series, Table
from distrib.page.curves import thinned
from distrib.page.template import fill

MOST_DRAWN = 8  # runs; colours and eyes tell no more apart
_POINTS = 200  # of a curve: means, or the noise of one run hides the others
_QUANTITIES: Sequence[tuple[str, str, str, Format, bool]] = (
    ("loss", "Training loss", "loss", "number", False),
    ("test-loss", "Test loss", "test_loss", "number", True),
    ("accuracy", "Test accuracy", "test_accuracy", "percent", True),
    ("rate", "Learning rate", "lr", "number", False),
    ("gradient", "Gradient norm", "gradient_norm", "number", False),
    ("scale", "Loss scale", "loss_scale", "integer", False),
)
"""Name, title, what the lines call it, how its numbers are shown, and whether the lines of epochs have it."""


def render(records: Sequence[Record]) -> str:
    """Return the page. Whatever the folders hold is text in it, and never markup."""
    folder, names = _short([record.name for record in records])
    records = [replace(record, name=name) for record, name in zip(records, names, strict=True)]
    first, *others = records
    drawn = [chart for chart in _charts(records[:MOST_DRAWN]) if chart.series]
    return fill(
        "compare.html.jinja",
        folder=folder,
        names=names,
        charts=drawn,
        averaged=max(-(-len(record.steps) // _POINTS) for record in records[:MOST_DRAWN]),
        left_out=max(0, len(records) - MOST_DRAWN),
        results=Table(("Run", *COLUMNS), tuple((record.name, *cells(record)) for record in records)),
        partings=[(other.name, parting(first, other)) for other in others],
        configuration=Table(("Key", *names), tuple(differing(records))),
        data={"charts": [chart.to_json() for chart in drawn], "marks": [], "steps_per_epoch": None},
    )


def _short(names: Sequence[str]) -> tuple[str, list[str]]:
    """Return the folder that all runs are in, and the rest of each name; no folder and the names if there is none."""
    parents = [Path(name).parent for name in names]
    if len(set(names)) < len(names) or len({*parents}) > 1 or str(parents[0]) == ".":
        return "", list(names)
    return str(parents[0]), [Path(name).name for name in names]


def _charts(records: Sequence[Record]) -> Iterator[Chart]:
    for name, title, quantity, layout, of_epochs in _QUANTITIES:
        series = [_series(record, quantity, of_epochs=of_epochs) for record in records]
        yield Chart(
            name,
            title,
            tuple(each for each in series if np.isfinite(each.curve.mean).any()),
            format=layout,
            logarithmic=name == "scale",
        )


def _series(record: Record, quantity: str, *, of_epochs: bool) -> Series:
    lines: Sequence[Line] = list((record.epochs if of_epochs else record.steps).values())
    points = np.array([(_number(line, "step"), _number(line, quantity)) for line in lines]).reshape(-1, 2)
    steps, values = points[np.argsort(points[:, 0])].T
    if of_epochs:
        return Series(record.name, thinned(steps, values), "linked")
    means, nothing = thinned(steps, values, _POINTS), np.empty(0)
    return Series(record.name, replace(means, low=nothing, high=nothing))


def _number(line: Mapping[str, Any], name: str) -> float:
    found = line.get(name)
    return float(found) if isinstance(found, int | float) and -1e30 < found < 1e30 else math.nan
