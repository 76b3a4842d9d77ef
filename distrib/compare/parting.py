"""Where two runs part: the first step at which a quantity is not the same any more, and the first at which that is no rounding."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from distrib.compare.record import Record

_LAST_BITS = 1e-3
"""Relative. Other kernels, threads or numbers of ranks change last bits, which grow from step to step; a mistake starts larger."""
_COUNTED = ("kind", "step", "epoch")
_CLOCK = ("seconds", "images_per_second")
"""What depends on how busy the machine was."""


@dataclass(frozen=True, slots=True)
class Parting:
    """A step, the quantity that differs there, and its two values."""

    step: int
    quantity: str
    first: Any
    other: Any

    def __str__(self) -> str:
        return f"step {self.step}, {self.quantity}: {_shown(self.first)} and {_shown(self.other)}"


def first_difference(one: Record, other: Record) -> Parting | None:
    """Return the first step that both have at which something is not exactly the same; None if there is none."""
    return _first(one, other, lambda left, right: _same(left, right, 0.0))


def first_beyond_rounding(one: Record, other: Record) -> Parting | None:
    """Return the first step at which a number differs by more than a thousandth of it; None if there is none."""
    return _first(one, other, lambda left, right: _same(left, right, _LAST_BITS))


def common_steps(one: Record, other: Record) -> int:
    """Return how many steps both have."""
    return len(one.steps.keys() & other.steps.keys())


def differing_keys(records: Sequence[Record]) -> dict[str, list[Any]]:
    """Return the keys of the configuration that are not the same in all runs, each with its values by run."""
    keys = sorted({key for record in records for key in record.config})
    values = {key: [record.config.get(key) for record in records] for key in keys}
    return {key: its for key, its in values.items() if any(each != its[0] for each in its)}


def _first(one: Record, other: Record, same: Callable[[object, object], bool]) -> Parting | None:
    for step in sorted(one.steps.keys() & other.steps.keys()):
        left, right = one.steps[step], other.steps[step]
        for name in _quantities(left, right):
            if not same(left.get(name), right.get(name)):
                return Parting(step, name, left.get(name), right.get(name))
    return None


def _quantities(left: Mapping[str, Any], right: Mapping[str, Any]) -> list[str]:
    return [name for name in {**left, **right} if name not in (*_COUNTED, *_CLOCK)]


def _same(left: object, right: object, tolerance: float) -> bool:
    if isinstance(left, float) and isinstance(right, float):
        if math.isnan(left) or math.isnan(right):
            return math.isnan(left) and math.isnan(right)
        return left == right or abs(left - right) <= tolerance * max(abs(left), abs(right))
    return left == right


def _shown(value: object) -> str:
    return f"{value:.9g}" if isinstance(value, float) else str(value)
