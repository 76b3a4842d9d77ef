"""The atlas as data: combinations of options, what was found of each, and all of it as JSON."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import jax
import optax
import torch

from crosscheck.json_text import strict_json
from crosscheck.report.verdict import Verdict
from crosscheck.tolerance import WARN

Options = Mapping[str, Any]
_AGREES = 1e-12  # relative difference after forty float64 steps; rounding leaves 1e-15 to 1e-13


@dataclass(frozen=True, slots=True)
class Combination:
    """One optimizer with one legal set of flags."""

    rule: str
    options: Options

    @property
    def label(self) -> str:
        shown = {k: v for k, v in self.options.items() if v not in (0, 0.0, False) and k != "lr"}
        return ", ".join([self.rule, *(k if v is True else f"{k} {v}" for k, v in shown.items())])


@dataclass(frozen=True, slots=True)
class Cell:
    """A combination in one implementation and dtype."""

    implementation: str
    dtype: str
    verdict: str
    max_eta: float
    out_of_range: int
    """Elements that the format cannot represent, or whose divisor it may lose."""
    elements: int


@dataclass(frozen=True, slots=True)
class Row:
    """What the atlas has to say about one combination. Differences are relative to the way the parameters went."""

    rule: str
    label: str
    options: Options
    stock_difference: float
    composition_difference: float
    own: tuple[str, ...]
    cells: tuple[Cell, ...]

    @property
    def stock_agrees(self) -> bool:
        return self.stock_difference < _AGREES

    @property
    def composition_agrees(self) -> bool:
        return self.composition_difference < _AGREES

    @property
    def max_eta(self) -> float:
        return max((cell.max_eta for cell in self.cells), default=0.0)

    @property
    def agrees(self) -> bool:
        return self.composition_agrees and all(
            cell.verdict != Verdict.MISMATCH and cell.max_eta <= WARN for cell in self.cells
        )


@dataclass(frozen=True, slots=True)
class Atlas:
    """The table."""

    rows: tuple[Row, ...]
    versions: dict[str, str] = field(
        default_factory=lambda: {"torch": torch.__version__, "jax": jax.__version__, "optax": optax.__version__}
    )

    @property
    def rules(self) -> list[str]:
        """Return the rules that have rows, in their order."""
        return list(dict.fromkeys(row.rule for row in self.rows))

    @property
    def agrees(self) -> bool:
        """Return whether our compositions and every implementation of torch agree; the stock aliases need not."""
        return all(row.agrees for row in self.rows)

    def to_json(self) -> str:
        """Return the table as strict JSON, with the options of each combination."""
        rows = [
            asdict(row) | {"stock_agrees": row.stock_agrees, "composition_agrees": row.composition_agrees}
            for row in self.rows
        ]
        return strict_json({"versions": self.versions, "agrees": self.agrees, "rows": rows})
