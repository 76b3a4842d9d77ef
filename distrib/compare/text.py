"""Writes the comparison as text that fits a terminal."""

import math
from collections.abc import Sequence

from distrib.compare.parting import Parting, common_steps, differing_keys, first_beyond_thousandth, first_difference
from distrib.config.messages import as_text
from distrib.layout import SUMMARY
from distrib.page.run_files import RunFiles, Summary

_NAME, _VALUE = 20, 20  # columns
COLUMNS = {"accuracy": 9, "test loss": 10, "train loss": 11, "steps": 7, "images/s": 9, "cross-check": 14}


def text(runs: Sequence[RunFiles]) -> str:
    """Return what the runs came to, in what their configurations differ, and where each parts from the first."""
    first, *others = runs
    lines = [row_heading(), *(row(run) for run in runs), *notes(runs), ""]
    lines += _configuration(runs)
    for other in others:
        lines += ["", f"{first.name} and {other.name}: {parting(first, other)}"]
    return "\n".join(lines)


def notes(runs: Sequence[RunFiles]) -> list[str]:
    """Return a line for each run whose summary is damaged."""
    return [
        f"note: {run.name}/{SUMMARY} cannot be read, so that the last epoch stands in for it in tables"
        for run in runs
        if SUMMARY in run.damaged
    ]


def _configuration(runs: Sequence[RunFiles]) -> list[str]:
    """Return a line for each key that differs, with its value in each run."""
    table = [[key, *(_cut(each, _VALUE) for each in its)] for key, *its in differing(runs)]
    if not table:
        return ["configuration: the same"]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = ["  ".join(map(str.ljust, line, widths)).rstrip() for line in table]
    return ["configuration: what differs", *(f"  {line}" for line in lines)]


def row_heading() -> str:
    """Return what stands above the rows."""
    return "run".ljust(_NAME) + "".join(name.rjust(width) for name, width in COLUMNS.items())


def row(run: RunFiles) -> str:
    """Return what a run came to, in a line."""
    columns = zip(cells(run), COLUMNS.values(), strict=True)
    return _cut(run.name, _NAME - 1).ljust(_NAME) + "".join(cell[: width - 1].rjust(width) for cell, width in columns)


def cells(run: RunFiles) -> tuple[str, ...]:
    """Return what a run came to, a text for each of `COLUMNS`.

    The last epoch stands in for the summary that a run without an end lacks.
    """
    summary = run.summary or Summary()

    def last(name: str, of_summary: float | None = None) -> float | None:
        found = run.epochs.values[name]
        return of_summary if of_summary is not None else float(found[-1]) if len(found) else None

    return (
        _number(last("test_accuracy", summary.test_accuracy), "{:.2%}"),
        _number(last("test_loss", summary.test_loss), "{:.4f}"),
        _number(last("train_loss", summary.train_loss), "{:.4f}"),
        str(int(run.steps.steps[-1]) if len(run.steps) else 0),
        _number(last("images_per_second", summary.images_per_second), "{:.0f}"),
        summary.crosscheck.verdict if summary.crosscheck else "-",
    )


def parting(first: RunFiles, other: RunFiles) -> str:
    """Return in words where the other run parts from the first."""
    common = common_steps(first, other)
    if not common:
        return "they have no step in common"
    exact, beyond = first_difference(first, other), first_beyond_thousandth(first, other)
    if exact is None:
        return f"the same in {'the step' if common == 1 else f'all {common} steps'} that both have"
    return f"they part at {exact}{_beyond(exact, beyond)}"


def _beyond(exact: Parting, beyond: Parting | None) -> str:
    if beyond is None:
        return "; never by more than a thousandth, so this may be rounding"
    return "" if beyond == exact else f"; by more than a thousandth at {beyond}"


def _number(value: float | None, layout: str) -> str:
    return "-" if value is None or not math.isfinite(value) else layout.format(value)


def differing(runs: Sequence[RunFiles]) -> list[tuple[str, ...]]:
    """Return each key that differs, with its value in each run; but for the folder, which is the run's name."""
    keys = {key: its for key, its in differing_keys(runs).items() if key != "output.dir"}
    return [(key, *map(_value, its)) for key, its in keys.items()]


def _value(value: object) -> str:
    """Return a value as a recipe spells it, and a dash for a key that a run does not have."""
    return "-" if value is None else as_text(value)


def _cut(shown: str, width: int) -> str:
    """Return the end of what is too long: of a path that is the part that says most."""
    return shown if len(shown) <= width else f"…{shown[1 - width :]}"
