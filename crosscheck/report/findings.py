"""Collects the findings of a replay, and makes one of those that are of one kind."""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from crosscheck.report.finding import UNEXPLAINED, Arithmetic, Finding
from crosscheck.trace.format import PARAM

ElementPlace = tuple[str, int, str, tuple[int, ...] | None]
"""Slot, step, tensor and index of an element."""


class Explanation(NamedTuple):
    """Why rows disagree with a rule."""

    causes: list[str]
    """The mistakes that explain them, as sentences."""
    written_out: Mapping[ElementPlace, Arithmetic]
    """Of each slot, the first element that disagrees."""


@dataclass(slots=True)
class _Kind:
    """All findings of one kind."""

    first: Finding
    rule: str  # the rule that they disagree with; empty if they are about something else
    elements: int = 0
    steps: set[int] = field(default_factory=set[int])
    tensors: dict[str, None] = field(default_factory=dict[str, None])

    def add(self, finding: Finding) -> None:
        if (finding.step, -finding.eta) < (self.first.step, -self.first.eta):
            self.first = finding
        self.elements += finding.elements
        self.steps.add(finding.step)
        self.tensors |= dict.fromkeys(finding.tensors)

    def as_one(self) -> Finding:
        return replace(
            self.first,
            elements=self.elements,
            steps=len(self.steps),
            last_step=max(self.steps),
            tensors=tuple(self.tensors),
        )


class Findings:
    """Collects findings. Two are of one kind if slot and cause are the same but for numbers, such as that of the step."""

    def __init__(self) -> None:
        self._kinds: dict[tuple[str, str], _Kind] = {}
        self._complete: list[Finding] = []

    def __bool__(self) -> bool:
        return bool(self._kinds or self._complete)

    def add(self, findings: Iterable[Finding], rule: str = "") -> None:
        """Add each finding to those of its kind. `rule`: the name of the rule that they disagree with."""
        for finding in findings:
            key = (finding.slot, re.sub(r"\d+", "N", finding.cause))
            self._kinds.setdefault(key, _Kind(finding, rule)).add(finding)

    def add_complete(self, findings: Iterable[Finding]) -> None:
        """Add findings that each count their own steps and stand for themselves."""
        self._complete += findings

    def in_order(self, explain: Callable[[str], Explanation]) -> list[Finding]:
        """Return one finding a kind: by step, and at the same step the state before the parameter computed from it.

        `explain` returns what explains the rows that disagree with the rule of a name; a cause is told with it.
        """
        known = {rule: explain(rule) for rule in {kind.rule: None for kind in self._kinds.values() if kind.rule}}
        ranked = [(kind.as_one(), kind.rule) for kind in self._kinds.values()]
        found = [
            *(finding for finding, rule in ranked if not rule),
            *(_explained(finding, known[rule]) for finding, rule in ranked if rule),
            *self._complete,
        ]
        return sorted(found, key=lambda finding: (finding.step, finding.slot == PARAM, finding.slot))


def _explained(finding: Finding, by: Explanation) -> Finding:
    why = " or ".join(by.causes) or UNEXPLAINED
    place = finding.slot, finding.step, finding.tensor, finding.index
    return replace(finding, cause=f"{finding.cause}: {why}", arithmetic=by.written_out.get(place))
