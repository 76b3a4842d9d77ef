"""Writes out the first elements that disagree with a rule: what went in, what came out, and what should have."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from crosscheck.diagnosis.cause import Cause
from crosscheck.diagnosis.failing import Failing, First
from crosscheck.diagnosis.trial import Candidate, exact
from crosscheck.report.finding import Arithmetic
from crosscheck.report.findings import ElementPlace
from crosscheck.rules.inputs import Inputs
from crosscheck.rules.rule import Flags, Rule
from crosscheck.trace.format import GRAD, PARAM

Numbers = dict[str, float]


def written_out(
    rule: Rule[Any], flags: Flags, failing: Failing, told: Cause | None
) -> Iterator[tuple[ElementPlace, Arithmetic]]:
    """Yield of each output the first element that disagrees, by its place. `told`: the mistake that is named first."""
    sample, begin = failing.sample(), failing.place_of_first
    with np.errstate(all="ignore"):  # whatever was recorded may be infinite
        expected = exact(Candidate("", rule, flags, sample))
        variants = [make() for make in told.make] if told is not None else []
    for row, (output, first) in enumerate(failing.first.items(), begin):
        written = _Written(rule, flags, sample, row, first.element)
        recorded = written.outputs(sample.recorded)
        made = min(
            (written.outputs(variant) for variant in variants),
            key=lambda made: _distance(made.get(output), recorded[output]),
            default=dict[str, float](),
        )
        yield _place(output, first), written.arithmetic(recorded, written.outputs(expected), made, told)


def _place(output: str, first: First) -> ElementPlace:
    return output, first.step, first.tensor, first.index


def _distance(a: float | None, b: float) -> float:
    return float("inf") if a is None or a != a else abs(a - b)


class _Written:
    """One element of a row, by the names that a report uses."""

    def __init__(self, rule: Rule[Any], flags: Flags, inputs: Inputs, row: int, element: int) -> None:
        self._rule, self._inputs, self._row, self._element = rule, inputs, row, element
        self._h = {name: float(np.asarray(numbers)[row]) for name, numbers in inputs.hyperparameters.items()}
        first = any(bool(np.asarray(absent)[row]) for absent in inputs.absent.values())
        self._formula = rule.formula(flags, self._h, first)

    def outputs(self, arrays: Mapping[str, Any]) -> Numbers:
        """Return the element of each output."""
        return {self._name(name): self._at(array) for name, array in arrays.items()}

    def arithmetic(self, recorded: Numbers, expected: Numbers, made: Numbers, told: Cause | None) -> Arithmetic:
        values = {self._name(name): self._at(array) for name, array in self._inputs.values.items()}
        read = {self._rule.reads: values.pop(self._rule.reads), **self._h}
        if "step" in self._inputs.counts:
            read["t"] = float(np.asarray(self._inputs.counts["step"])[self._row]) + 1
        return Arithmetic(
            formula=self._formula,
            read={name: number for name, number in read.items() if self._matters(name)},
            before={name: values[name] for name in recorded if name in values and self._is_read(name)},
            recorded=recorded,
            expected=expected,
            cause=told.sentence if told is not None and made else "",
            under_cause=made,
        )

    def _name(self, name: str) -> str:
        return {PARAM: self._rule.moved, GRAD: self._rule.reads}.get(name, name)

    def _at(self, array: Any) -> float:
        return float(np.asarray(array)[self._row, self._element])

    def _is_read(self, name: str) -> bool:
        """Return whether the formula has this name in what it computes from."""
        return any(re.search(rf"\b{re.escape(name)}\b", line.partition("=")[2]) for line in self._formula)

    def _matters(self, name: str) -> bool:
        """Return whether the formula reads a number, or a mistake may have: a loss scale, and the rate of the step before."""
        unusual = {"loss_scale": self._h.get("loss_scale") != 1, "last_lr": self._h.get("last_lr") != self._h.get("lr")}
        return self._is_read(name) or unusual.get(name, False)
