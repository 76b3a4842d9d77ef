"""Writes what a dry run prints: the configuration with its origins, the learning rate as a plot, sizes and times."""

import math
import textwrap
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from distrib.config.messages import COMMAND_LINE, as_toml

WIDTH = 80
_KEYS = 56  # columns of a line before its origin
_LABEL = 11
_AXIS = 10
_ROWS = 9


def configuration(keys: Mapping[str, Any], origin: Mapping[str, str]) -> Iterator[str]:
    """Yield a line for each dotted key: its value, and whether it is from the recipe, the command line or a default."""
    section = ""
    for key, value in sorted(keys.items(), key=_name_first(keys)):
        here, _, name = key.partition(".")
        if here != section:
            section = here
            yield f"[{section}]"
        source = origin.get(key, "default")
        shown = f"  {name} = {as_toml(value)}"
        yield f"{shown:<{_KEYS}}  {source if source in ('default', COMMAND_LINE) else 'the recipe'}"


def _name_first(keys: Mapping[str, Any]) -> Callable[[tuple[str, Any]], tuple[int, bool]]:
    """Return what sorts keys by section, as they come, and within a section the one first that chooses its kind."""
    sections = list(dict.fromkeys(key.partition(".")[0] for key in keys))
    return lambda item: (sections.index(item[0].partition(".")[0]), not item[0].endswith(".name"))


def fact(label: str, sentence: str) -> str:
    """Return a sentence behind its label, broken to the width."""
    return textwrap.fill(f"{label:<{_LABEL}}{sentence}", WIDTH, subsequent_indent=" " * _LABEL, break_on_hyphens=False)


def plot(value: Callable[[int], float], total: int, *, ascii_only: bool) -> list[str]:
    """Return the plot of a value over `total` steps, counted from 0, in 80 columns."""
    columns = min(WIDTH - _AXIS - 2, total)
    values = [value((2 * column + 1) * total // (2 * columns)) for column in range(columns)]
    values[0], values[-1] = value(0), value(total - 1)
    top = max((each for each in values if math.isfinite(each)), default=0.0) or 1.0
    mark, side, corner, ground = "*|+-" if ascii_only else "•│└─"
    heights = [_row(each, top) for each in values]
    lines: list[str] = []
    for row in range(_ROWS - 1, -1, -1):
        label = f"{top * row / (_ROWS - 1):.3g}" if row % 4 == 0 else ""
        drawn = "".join(mark if row in _reached(heights, column) else " " for column in range(columns))
        lines.append(f"{label:>{_AXIS}} {side}{drawn}".rstrip())
    lines.append(f"{'':>{_AXIS}} {corner}{ground * columns}")
    first, last = "step 1", str(total)
    lines.append(f"{'':>{_AXIS + 2}}{first}{last:>{max(len(last) + 1, columns - len(first))}}")
    return lines


def _row(value: float, top: float) -> int:
    return round(value / top * (_ROWS - 1)) if 0 <= value <= top else _ROWS - 1


def _reached(heights: list[int], column: int) -> range:
    """Return the rows that a column marks: its own, and those between it and the one before, so that a jump is a line."""
    here = heights[column]
    before = heights[column - 1] if column else here
    return range(min(here, before + 1), max(here, before - 1) + 1)


def size(number: float) -> str:
    """Return a number of bytes as a person reads it."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if number < 1024 or unit == "GiB":
            return f"{number:,.0f} {unit}" if unit == "bytes" or number >= 100 else f"{number:,.1f} {unit}"
        number /= 1024
    raise AssertionError("the last unit returns")


def duration(seconds: float) -> str:
    """Return a time as a person reads it."""
    if seconds < 90:
        return f"{seconds:.3g} s"
    minutes = seconds / 60
    return f"{minutes:.3g} min" if minutes < 90 else f"{minutes / 60:.3g} h"
