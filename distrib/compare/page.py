"""Renders the comparison as a page, with the curves of all runs on one chart, and the tables."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from distrib.compare.text import COLUMNS, cells, differing, notes, parting
from distrib.page.charts import Chart, Format, Series, Table
from distrib.page.run_files import RunFiles
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


def render(runs: Sequence[RunFiles]) -> str:
    """Return the page. Whatever the folders hold is text in it, and never markup."""
    folder, names = _short([run.name for run in runs])
    runs = [replace(run, name=name) for run, name in zip(runs, names, strict=True)]
    first, *others = runs
    drawn = [chart for chart in _charts(runs[:MOST_DRAWN]) if chart.series]
    return fill(
        "compare.html.jinja",
        folder=folder,
        names=names,
        charts=drawn,
        averaged=max(-(-len(run.steps) // _POINTS) for run in runs[:MOST_DRAWN]),
        left_out=max(0, len(runs) - MOST_DRAWN),
        results=Table(("Run", *COLUMNS), tuple((run.name, *cells(run)) for run in runs)),
        notes=notes(runs),
        partings=[(other.name, parting(first, other)) for other in others],
        configuration=Table(("Key", *names), tuple(differing(runs))),
        data={"charts": [chart.to_json() for chart in drawn], "marks": [], "steps_per_epoch": None},
    )


def _short(names: Sequence[str]) -> tuple[str, list[str]]:
    """Return the folder that all runs are in, and the rest of each name; no folder and the names if there is none."""
    parents = [Path(name).parent for name in names]
    if len(set(names)) < len(names) or len({*parents}) > 1 or str(parents[0]) == ".":
        return "", list(names)
    return str(parents[0]), [Path(name).name for name in names]


def _charts(runs: Sequence[RunFiles]) -> Iterator[Chart]:
    for name, title, quantity, layout, of_epochs in _QUANTITIES:
        series = [_series(run, quantity, place, of_epochs=of_epochs) for place, run in enumerate(runs)]
        yield Chart(
            name,
            title,
            tuple(each for each in series if each.has_numbers),
            format=layout,
            logarithmic=name == "scale",
        )


def _series(run: RunFiles, quantity: str, place: int, *, of_epochs: bool) -> Series:
    """Return the curve of a run, which has the color of its place in every chart."""
    if of_epochs:
        return Series(run.name, run.epochs.steps, run.epochs.values[quantity], "linked", place)
    return Series(run.name, run.steps.steps, run.steps.values[quantity], color=place, most=_POINTS, band=False)
