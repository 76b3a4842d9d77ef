"""Sums up the judged rows of a replay, and makes findings of those that are wrong."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np

from crosscheck.checks.judging.eta_map import EtaMap
from crosscheck.checks.judging.power import Groups
from crosscheck.criterion.batches import WIDTH, Batch
from crosscheck.criterion.elementwise import Judged
from crosscheck.report.finding import Finding
from crosscheck.rules.rule import Rule
from crosscheck.tolerance import FAIL, WARN


class Tally:
    """Sums up the judged batches of all rules."""

    def __init__(self) -> None:
        self.elements: Counter[str] = Counter()
        """Elements judged, by rule."""
        self.out_of_range = self.undetermined = 0
        self.parameters: Counter[str] = Counter()
        """Elements judged of each parameter itself, by its name."""
        self.smallest_rate_error: dict[str, float] = {}
        """By name of a parameter: the smallest relative error of its rate that one of its elements would have shown."""
        self.max_eta, self.worst = 0.0, "no element"
        self.eta: dict[str, float] = {}
        """The largest eta of each slot."""
        self.close_calls: dict[str, tuple[float, str]] = {}
        """By slot: the largest eta between WARN and FAIL, and a line about it."""
        self.eta_map = EtaMap()

    def add(self, batch: Batch, judged: Judged) -> None:
        """Take in what became of a batch."""
        self.elements[batch.rule.name] += int(judged.checked.sum())
        self.out_of_range += int(judged.out_of_range.sum())
        self.undetermined += int(judged.undetermined.sum())
        self.eta_map.add(batch, judged)
        if batch.rule.of_parameters:
            # Rows without an origin are padding.
            for origin, checked, error in zip(batch.origins, judged.checked[:, 0], judged.smallest["lr"], strict=False):
                name = origin.block.info.name
                self.parameters[name] += int(checked)
                self.smallest_rate_error[name] = min(self.smallest_rate_error.get(name, np.inf), float(error))
        row, output = np.unravel_index(int(np.argmax(judged.eta)), judged.eta.shape)
        if not judged.eta[row, output] <= self.max_eta and row < len(batch.origins):
            self.max_eta = float(judged.eta[row, output])
            self.worst = _describe(batch, judged, int(row), int(output))
        etas = judged.eta[: len(batch.origins)]  # the other rows are padding
        for output, name in enumerate(batch.outputs):
            largest = float(np.max(etas[:, output], initial=0.0))
            if not largest <= self.eta.get(name, -1.0):
                self.eta[name] = largest
            for row in np.flatnonzero((etas[:, output] > WARN) & (etas[:, output] <= FAIL)):
                call = float(etas[row, output]), _describe(batch, judged, int(row), output)
                self.close_calls[name] = max(self.close_calls.get(name, (0.0, "")), call)


def never_written(batch: Batch) -> Iterator[Finding]:
    """Yield a finding for each slot that an applied step should have left behind and did not."""
    for output, name in enumerate(batch.outputs):
        for row in np.flatnonzero(~batch.inputs.judged[: len(batch.origins), output]):
            origin = batch.origins[row]
            yield Finding(
                step=origin.step,
                tensor=origin.block.info.name,
                slot=name,
                cause=f"{name} was never written, though the step was applied",
                elements=min(WIDTH, len(origin.block.coordinates) - origin.column),
            )


def disagreements(batch: Batch, judged: Judged) -> Iterator[Finding]:
    """Yield the worst element of each row and output that is beyond the limit, without the mistake behind it."""
    for output in range(len(batch.outputs)):
        for row in np.flatnonzero(~(judged.eta[: len(batch.origins), output] <= FAIL)):
            yield _finding(batch, judged, int(row), output)


def all_together(rule: Rule[Any], groups: Groups) -> Iterator[Finding]:
    """Yield a finding for each hyperparameter that no element shows to be off, but all of them together do."""
    for group, name, found in groups.wrong():
        what = f"1 - {name}" if name in rule.complemented else name
        yield Finding(
            step=groups.first_step[group],
            tensor=f"group {group}" if rule.of_parameters else "all tensors",
            slot=name,
            check=rule.check,
            cause=(
                f"all elements together are consistent with {what} x {1 + found.error:.8g}, where rounding explains "
                f"x 1 ± {found.limit:.2g}; no element alone shows it"
            ),
        )


def _finding(batch: Batch, judged: Judged, row: int, output: int) -> Finding:
    """Return what there is to say about the worst element of a row."""
    origin, name, rule = batch.origins[row], batch.outputs[output], batch.rule
    return Finding(
        step=origin.step,
        tensor=origin.block.info.name,
        slot=name,
        index=origin.block.position(origin.column + int(judged.element[row, output])),
        recorded=float(judged.recorded[row, output]),
        expected=float(judged.expected[row, output]),
        eta=float(judged.eta[row, output]),
        cause=rule.complaint.format(output=name, rule=rule.name),
        check=rule.check,
        elements=int(judged.over[row, output]),
    )


def _describe(batch: Batch, judged: Judged, row: int, output: int) -> str:
    """Return a line about the worst element of a row."""
    worst = _finding(batch, judged, row, output)
    return (
        f"eta {worst.eta:.3g} at step {worst.step}, {worst.place}, {worst.slot}: "
        f"recorded {worst.recorded:.9g}, expected {worst.expected:.9g}"
    )
