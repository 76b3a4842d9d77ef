"""The comparison as text that fits a terminal."""

from collections.abc import Mapping, Sequence
from typing import Any

from distrib.compare.parting import Parting, common_steps, differing_keys, first_beyond_rounding, first_difference
from distrib.compare.record import Line, Record

_NAME, _VALUE = 20, 20  # columns
COLUMNS = {"accuracy": 9, "test loss": 10, "train loss": 11, "steps": 7, "images/s": 9, "cross-check": 14}


def text(records: Sequence[Record]) -> str:
    """Return what the runs came to, in what their configurations differ, and where each parts from the first."""
    first, *others = records
    lines = [row_heading(), *(row(record) for record in records), ""]
    lines += _configuration(records)
    for other in others:
        lines += ["", f"{first.name} and {other.name}: {parting(first, other)}"]
    return "\n".join(lines)


def _configuration(records: Sequence[Record]) -> list[str]:
    """Return a line for each key that differs, with its value in each run."""
    table = [[key, *(_cut(each, _VALUE) for each in its)] for key, *its in differing(records)]
    if not table:
        return ["configuration: the same"]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = ["  ".join(map(str.ljust, line, widths)).rstrip() for line in table]
    return ["configuration: what differs", *(f"  {line}" for line in lines)]


def row_heading() -> str:
    """Return what stands above the rows."""
    return "run".ljust(_NAME) + "".join(name.rjust(width) for name, width in COLUMNS.items())


def row(record: Record) -> str:
    """Return what a run came to, in a line."""
    columns = zip(cells(record), COLUMNS.values(), strict=True)
    return _cut(record.name, _NAME - 1).ljust(_NAME) + "".join(
        cell[: width - 1].rjust(width) for cell, width in columns
    )


def cells(record: Record) -> tuple[str, ...]:
    """Return what a run came to, a text for each of `COLUMNS`."""
    summary, crosscheck = record.summary, record.summary.get("crosscheck")
    last: Line = record.epochs[max(record.epochs)] if record.epochs else dict[str, Any]()
    values = {**last, **summary}  # a run that has not ended has no summary
    told = crosscheck.get("verdict") if isinstance(crosscheck, Mapping) else None  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType]
    return (
        _number(values.get("test_accuracy"), "{:.2%}"),
        _number(values.get("test_loss"), "{:.4f}"),
        _number(values.get("train_loss"), "{:.4f}"),
        str(max(record.steps, default=0)),
        _number(values.get("images_per_second"), "{:.0f}"),
        told if isinstance(told, str) else "-",
    )


def parting(first: Record, other: Record) -> str:
    """Return in words where the other run parts from the first."""
    common = common_steps(first, other)
    if not common:
        return "they have no step in common"
    exact, beyond = first_difference(first, other), first_beyond_rounding(first, other)
    if exact is None:
        return f"the same in {'the step' if common == 1 else f'all {common} steps'} that both have"
    return f"they part at {exact}{_beyond(exact, beyond)}"


def _beyond(exact: Parting, beyond: Parting | None) -> str:
    if beyond is None:
        return "; never by more than a thousandth, so this may be rounding"
    return "" if beyond == exact else f"; by more than a thousandth at {beyond}"


def _number(value: object, layout: str) -> str:
    return layout.format(value) if isinstance(value, int | float) else "-"


def differing(records: Sequence[Record]) -> list[tuple[str, ...]]:
    """Return each key that differs, with its value in each run; but for the folder, which is the run's name."""
    keys = {key: its for key, its in differing_keys(records).items() if key != "output.dir"}
    return [(key, *map(_value, its)) for key, its in keys.items()]


def _value(value: object) -> str:
    """Return a value as a recipe spells it, and a dash for a key that a run does not have."""
    return "-" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _cut(shown: str, width: int) -> str:
    """Return the end of what is too long: of a path that is the part that says most."""
    return shown if len(shown) <= width else f"…{shown[1 - width :]}"
