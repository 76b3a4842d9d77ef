"""Finds what moved in a step that must leave it alone.

A step that is skipped or has no gradient must leave everything, any other the slots that its formula does not use.
"""

from collections.abc import Iterator
from typing import Any

from crosscheck.checks.judging.bits import differ, finding
from crosscheck.report.finding import Finding
from crosscheck.rules.rule import Rule
from crosscheck.trace.format import AVERAGE
from crosscheck.trace.tensors import Quantity, TensorBlock


def moved_while_idle(rule: Rule[Any], block: TensorBlock, quantities: dict[str, Quantity]) -> Iterator[Finding]:
    """Yield a finding for each quantity and row that moved something and must not."""
    # Such as SGD's buffer without momentum.
    left_out = [rule.unused(rule.flags(options)) for options in block.options]
    for name, quantity in quantities.items():
        for row, step in enumerate(block.steps):
            steps = step.applied and (block.has_grad[row] or name == AVERAGE)  # the average follows any parameter
            if steps and name not in left_out[row]:
                continue
            if not (quantity.there_before[row] and quantity.there_after[row]):
                continue
            moved = differ(quantity.before[row], quantity.after[row])
            if moved.any():
                why = "although the formula of this step leaves it alone" if steps else why_idle(block, row)
                yield finding(
                    block, row, name, quantity.after[row], quantity.before[row], moved, f"{name} changed {why}"
                )


def why_idle(block: TensorBlock, row: int) -> str:
    """Return why a step may not move a tensor, as the end of a sentence."""
    return "although it had no gradient" if block.steps[row].applied else "on a skipped step"
