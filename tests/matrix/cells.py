"""The cells of the matrix of updates, and a choice of a few cells in which every pair of values occurs."""

from collections.abc import Sequence
from itertools import combinations, product
from typing import Any, Literal, NamedTuple, TypeVar

AnyCell = TypeVar("AnyCell", bound=tuple[object, ...])

OPTIMIZERS: dict[str, dict[str, Any]] = {
    "sgd": {"lr": 0.02, "momentum": 0.9, "nesterov": True, "weight_decay": 5e-4},
    "adam": {"lr": 1e-3, "weight_decay": 1e-3},
    "adamw": {"lr": 1e-3, "weight_decay": 0.05},
}
KERNELS: dict[str, dict[str, bool]] = {
    "fused": {"fused": True},
    "foreach": {"foreach": True},
    "single": {"fused": False, "foreach": False},
}
OVERFLOWS = (1, 7)
"""Steps whose gradients are made to overflow in fp16: the first one, and one at which the optimizer already has state."""


class Cell(NamedTuple):
    """One cell of the matrix: one way to train."""

    optimizer: str
    kernels: str
    precision: Literal["no", "bf16", "fp16"]
    clip: bool
    accumulate: int
    ranks: int

    @property
    def overflows(self) -> tuple[int, ...]:
        """The steps that overflow."""
        return OVERFLOWS if self.precision == "fp16" else ()

    def options(self) -> dict[str, Any]:
        """Return the recipe's optimizer table."""
        return {"name": self.optimizer, **OPTIMIZERS[self.optimizer], **KERNELS[self.kernels]}

    def __str__(self) -> str:
        clipping = "clipped" if self.clip else "unclipped"
        return f"{self.optimizer}-{self.kernels}-{self.precision}-{clipping}-{self.accumulate}part-{self.ranks}rank"


CELLS = [
    Cell(*values) for values in product(OPTIMIZERS, KERNELS, ("no", "bf16", "fp16"), (True, False), (1, 3), (1, 2))
]


def pairs_of(cell: tuple[object, ...]) -> set[tuple[tuple[int, object], ...]]:
    """Return every pair of the cell's values, each value with its position in the cell."""
    return set(combinations(enumerate(cell), 2))


def pairwise(cells: Sequence[AnyCell]) -> list[AnyCell]:
    """Return a few of the cells in which every pair of values occurs.

    It always takes the cell that adds most pairs, and the first of those that add as many.
    """
    missing = set[tuple[tuple[int, object], ...]]().union(*map(pairs_of, cells))
    chosen: list[AnyCell] = []
    while missing:
        chosen.append(max(cells, key=lambda cell: len(missing & pairs_of(cell))))
        missing -= pairs_of(chosen[-1])
    return chosen
