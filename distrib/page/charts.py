"""Describes the charts of a page: what each draws, in numbers for its script and in words for whoever cannot see it."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from distrib.page.curves import MOST_POINTS, Column, thinned
from distrib.page.run_files import RunFiles

Format = Literal["number", "percent", "integer"]

_DIGITS = 5  # of a number in the page; those before the point are all there
_TABLE_ROWS = 24


@dataclass(frozen=True, slots=True)
class Series:
    """One line or set of points."""

    label: str
    steps: Column
    values: Column
    dots: Literal["none", "linked", "alone"] = "none"  # one an epoch, with a line; one an event, without
    color: int = 0  # its number in the style of the page
    most: int = MOST_POINTS
    band: bool = True  # from the lowest to the highest value of each point that is a mean

    def to_json(self) -> dict[str, Any]:
        curve = thinned(self.steps, self.values, self.most)
        return {
            "label": self.label,
            "dots": self.dots,
            "color": self.color,
            "steps": [int(step) for step in curve.steps],
            "until": [int(step) for step in curve.until],
            "mean": _numbers(curve.mean),
            "low": _numbers(curve.low) if self.band else [],
            "high": _numbers(curve.high) if self.band else [],
        }

    @property
    def has_numbers(self) -> bool:
        """Return whether there is anything to draw."""
        return bool(np.isfinite(self.values).any())


@dataclass(frozen=True, slots=True)
class Chart:
    """One quantity over the steps."""

    name: str  # in the page's addresses
    title: str
    series: tuple[Series, ...]
    unit: str = ""  # of its values, or what they are shares of, where the title does not say it
    format: Format = "number"
    logarithmic: bool = False
    limit: float | None = None  # drawn as a level line
    note: str = ""

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "format": self.format,
            "logarithmic": self.logarithmic,
            "limit": self.limit,
            "series": [series.to_json() for series in self.series],
        }

    @property
    def in_words(self) -> str:
        """What a person sees who looks at the chart: first, last, lowest and highest of each line."""
        return " ".join(filter(None, (_in_words(series, self.format) for series in self.series)))


def charts(run: RunFiles) -> Iterator[Chart]:
    """Yield the charts for which the run has numbers."""
    yield from (chart for chart in _all(run) if chart.series)


def _all(run: RunFiles) -> Iterator[Chart]:
    steps, epochs = run.steps, run.epochs

    def line(label: str, name: str, values: Column | None = None) -> list[Series]:
        column = steps.values[name] if values is None else values
        series = Series(label, steps.steps, column)
        return [series] if series.has_numbers else []

    def dots(label: str, name: str, color: int = 0) -> list[Series]:
        series = Series(label, epochs.steps, epochs.values[name], "linked", color)
        return [series] if series.has_numbers else []

    yield Chart("loss", "Loss", (*line("training", "loss"), *dots("test", "test_loss", color=1)))
    yield Chart("accuracy", "Test accuracy", (*dots("test accuracy", "test_accuracy"),), format="percent")
    yield Chart("rate", "Learning rate", (*line("learning rate", "lr"),))
    speed = line("images a second", "seconds", _images_a_second(run))
    yield Chart("speed", "Throughput", tuple(speed), "images a second", format="integer")
    waited = line("share of the step's time", "data_seconds", _share_of_time(run))
    yield Chart(
        *("data", "Waiting for the batch", tuple(waited), "share of the step's time"),
        format="percent",
        note="By the host's clock.",
    )
    yield _gradient(run, line("gradient norm", "gradient_norm"))
    yield Chart(
        "scale",
        "Loss scale",
        (*line("loss scale", "loss_scale"), *_skipped(run)),
        format="integer",
        logarithmic=True,
        note=_skipped_note(run),
    )


def _gradient(run: RunFiles, series: list[Series]) -> Chart:
    """Return the chart of the gradient's norm before clipping, with the limit where there is one."""
    limit = _positive(run.config.get("training.clip_norm"))
    note = "2-norm of all gradients together; every tenth step is measured where nothing is clipped to a norm."
    if limit is not None:
        norms = run.steps.values["gradient_norm"]
        measured, clipped = int(np.isfinite(norms).sum()), int((norms > limit).sum())
        note = f"2-norm of all gradients together, before clipping to {limit:g}: {clipped:,} of {measured:,} steps were clipped."
    return Chart("gradient", "Gradient norm", tuple(series), limit=limit, note=note)


def _images_a_second(run: RunFiles) -> Column:
    """Return each step's images over its seconds; nothing where the batch is unknown. The last one of an epoch may be smaller."""
    batch = _positive(run.config.get("training.batch_size")) or math.nan
    seconds = run.steps.values["seconds"]
    images = np.full(len(seconds), batch)
    in_epoch, steps = _positive(run.facts.images_per_epoch), _positive(run.facts.steps_per_epoch)
    if in_epoch is not None and steps is not None:
        images[run.steps.steps % steps == 0] = max(0.0, in_epoch - (steps - 1) * batch)
    return np.divide(images, seconds, out=np.full(len(seconds), math.nan), where=seconds > 1e-9)


def _share_of_time(run: RunFiles) -> Column:
    """Return the share of each step's seconds that it waited for its batch."""
    seconds, waited = run.steps.values["seconds"], run.steps.values["data_seconds"]
    return np.divide(waited, seconds, out=np.full(len(seconds), math.nan), where=seconds > 1e-9)


def _skipped(run: RunFiles) -> list[Series]:
    """Return the steps that the loss scaler skipped, as dots at the scale that they had."""
    scale = run.steps.values["loss_scale"]
    chosen = (run.steps.values["applied"] == 0) & np.isfinite(scale)
    if not chosen.any():
        return []
    return [Series("skipped steps", run.steps.steps[chosen], scale[chosen], "alone", color=1)]


def _skipped_note(run: RunFiles) -> str:
    skipped = int((run.steps.values["applied"] == 0).sum())
    if not skipped:
        return "No step was skipped."
    return f"{skipped:,} of {len(run.steps):,} steps were skipped: their gradients overflowed float16."


@dataclass(frozen=True, slots=True)
class Table:
    """Numbers to read instead of a chart."""

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def table_of_steps(run: RunFiles) -> Table:
    """Return some steps spread over the run, the first and the last among them."""
    steps, total = run.steps, len(run.steps)
    columns: dict[str, tuple[str, Format]] = {
        "Loss": ("loss", "number"),
        "Learning rate": ("lr", "number"),
        "Gradient norm": ("gradient_norm", "number"),
        "Loss scale": ("loss_scale", "integer"),
    }
    there = {head: column for head, column in columns.items() if steps.has(column[0])}
    chosen = sorted({round(float(i)) for i in np.linspace(0, total - 1, min(total, _TABLE_ROWS))})
    rows = (
        (
            f"{int(steps.steps[i]):,}",
            *(shown(float(steps.values[name][i]), format_) for name, format_ in there.values()),
        )
        for i in chosen
    )
    return Table(("Step", *there), tuple(rows))


def table_of_epochs(run: RunFiles) -> Table:
    """Return every epoch that was evaluated."""
    epochs = run.epochs
    columns: dict[str, tuple[str, Format]] = {
        "Training loss": ("train_loss", "number"),
        "Test loss": ("test_loss", "number"),
        "Test accuracy": ("test_accuracy", "percent"),
        "Learning rate": ("lr", "number"),
        "Images a second": ("images_per_second", "integer"),
    }
    rows = (
        (
            shown(float(epochs.values["epoch"][i]), "integer"),
            f"{int(epochs.steps[i]):,}",
            *(shown(float(epochs.values[name][i]), format_) for name, format_ in columns.values()),
        )
        for i in range(len(epochs))
    )
    return Table(("Epoch", "Step", *columns), tuple(rows))


def shown(value: float, format_: Format) -> str:
    """Return a number as a person reads it, and a dash for none."""
    if not math.isfinite(value):
        return "–"
    if format_ == "percent":
        return f"{value:.2%}"
    return f"{value:,.0f}" if format_ == "integer" and abs(value) >= 1 else f"{value:.4g}"  # a loss scale may be 0.25


def _in_words(series: Series, format_: Format) -> str:
    there = np.flatnonzero(np.isfinite(series.values))
    if not len(there):
        return ""

    def at(index: int) -> str:
        return f"{shown(float(series.values[index]), format_)} at step {int(series.steps[index]):,}"

    low, high = there[np.argmin(series.values[there])], there[np.argmax(series.values[there])]
    return f"{series.label}: first {at(there[0])}, last {at(there[-1])}, lowest {at(low)}, highest {at(high)}."


def _numbers(values: Iterable[float]) -> list[float | None]:
    return [_short(value) if math.isfinite(value) else None for value in values]


def _short(value: float) -> float:
    """Return the number with as many digits as a page shows. A loss scale is a power of two, and keeps all of them."""
    return float(f"{value:.{_DIGITS}g}") if abs(value) < 10**_DIGITS else float(round(value))


def _positive(value: object) -> float | None:
    return float(value) if isinstance(value, (int, float)) and 0 < value < 1e30 else None
