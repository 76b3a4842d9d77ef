"""The atlas for a terminal of 80 columns: a table for each optimizer, with a column for each of its options."""

import math
import textwrap
from collections.abc import Iterable
from typing import Any

from crosscheck.atlas.table import Atlas, Cell, Row
from crosscheck.report.verdict import Verdict
from crosscheck.testing import REGIMES

_COLUMNS = ("momentum", "dampening", "nesterov", "betas", "eps", "weight_decay", "amsgrad", "maximize")
_OPTAX = "Optax"  # the column that says what of Optax does the same
_WIDTH = 80
_LEGEND = (
    "Optax   alias: the stock alias does the same; chain: only our chain of its transformations does; NO: neither does",
    f"eta     the worst of the recorded steps over all dtypes, under {', '.join(REGIMES)} gradients; * some elements are out "
    "of the range of a format; wrong: the step is not what Optax makes of its inputs",
)


def text(atlas: Atlas) -> str:
    """Return the tables, a summary of each, and what their words mean."""
    lines: list[str] = []
    for rule in atlas.rules:
        rows = [row for row in atlas.rows if row.rule == rule]
        lines += [rule, *_table(rows), _summary(rule, rows), ""]
    own = sorted({piece for row in atlas.rows for piece in row.own})
    lines += [textwrap.fill(line, _WIDTH, subsequent_indent=" " * 8) for line in _LEGEND]
    lines.append(f"own pieces of the chains: {', '.join(own) or 'none'}; the rest is Optax's")
    lines.append(", ".join(f"{name} {version}" for name, version in atlas.versions.items()))
    return "\n".join(lines)


def _table(rows: list[Row]) -> list[str]:
    options = options_of(rows)
    implementations = list(dict.fromkeys(cell.implementation for row in rows for cell in row.cells))
    heads = [*options, _OPTAX, *implementations]
    table = [heads]
    for row in rows:
        cells = [shown(row.options[name]) for name in options]
        cells.append("alias" if row.stock_agrees else "chain" if row.composition_agrees else "NO")
        cells += [worst(cell for cell in row.cells if cell.implementation == name) for name in implementations]
        table.append(cells)
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return [" ".join(f"{cell:>{width}}" for cell, width in zip(line, widths, strict=True)) for line in table]


def _summary(rule: str, rows: list[Row]) -> str:
    return (
        f"{rule}: the stock alias agrees in {sum(row.stock_agrees for row in rows)} of {len(rows)}, our chain in "
        f"{sum(row.composition_agrees for row in rows)}; worst eta {max(row.max_eta for row in rows):.2f}"
    )


def options_of(rows: list[Row]) -> list[str]:
    """Return the options of a rule that have a column."""
    return [name for name in _COLUMNS if name in rows[0].options]


def shown(value: Any) -> str:
    """Return an option's value; what is off is a dash."""
    if value is True:
        return "yes"
    if isinstance(value, tuple):
        return " ".join(f"{each:g}".removeprefix("0") for each in value)  # pyright: ignore[reportUnknownVariableType]
    return f"{value:g}" if value else "-"


def worst(cells: Iterable[Cell]) -> str:
    """Return the worst of some cells: its eta, and a mark if some elements are out of a format's range."""
    found = list(cells)
    mark = "*" if any(cell.out_of_range for cell in found) else ""
    if any(cell.verdict == Verdict.MISMATCH for cell in found):
        return f"wrong{mark}"
    eta = max((cell.max_eta for cell in found), default=math.nan)
    return f"{eta:.2f}{mark}"
