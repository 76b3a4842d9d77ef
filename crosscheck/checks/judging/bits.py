"""Compares values bit for bit, and makes findings of those that differ."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from crosscheck.arrays import Bits
from crosscheck.report import check_names
from crosscheck.report.finding import Finding
from crosscheck.trace.format import AVERAGE
from crosscheck.trace.tensors import Quantity, TensorBlock

Values = NDArray[Any]


def differ(a: Values, b: Values) -> Bits:
    """Compare element by element and bit for bit: NaN equals itself, and 0 differs from -0."""
    if a.dtype != b.dtype or a.shape != b.shape:
        return np.ones(a.shape, np.bool_)
    unsigned = np.dtype(f"u{a.dtype.itemsize}")
    return np.ascontiguousarray(a).view(unsigned) != np.ascontiguousarray(b).view(unsigned)


def all_of(values: Values) -> Bits:
    """Return a mask that marks every element."""
    return np.ones(values.shape, np.bool_)


def values_before(quantity: Quantity | None, row: int) -> Values | None:
    """Return the values before the step of a row; None if there are none."""
    return None if quantity is None or not quantity.there_before[row] else quantity.before[row]


def finding(
    block: TensorBlock, row: int, name: str, recorded: Values, expected: Values, moved: Bits, cause: str
) -> Finding:
    """Return a finding about the values of one row, of which those that `moved` marks are wrong.

    It is one of continuity; the moving average has a check of its own.
    """
    at = int(np.argmax(moved))
    scalar = recorded.size != len(block.coordinates)
    return Finding(
        step=block.steps[row].step,
        tensor=block.info.name,
        slot=name,
        index=None if scalar else block.position(at),
        recorded=float(recorded[at]),
        expected=float(expected[at]),
        cause=cause,
        elements=int(moved.sum()),
        check=check_names.AVERAGE if name == AVERAGE else check_names.CONTINUITY,
    )
