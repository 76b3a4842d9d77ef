"""Defines what all checks of a trace have in common: how a replay calls them, and the context that they share."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from crosscheck.checks.judging.judge import Judge
from crosscheck.checks.ranks.comparison import Comparison
from crosscheck.report.coverage import Coverage
from crosscheck.report.findings import Findings
from crosscheck.rules.rule import Rule
from crosscheck.trace.format import Claims, Option, Part
from crosscheck.trace.reader import Segment
from crosscheck.trace.tensors import TensorBlock


@dataclass(slots=True)
class Context:
    """What all checks of a replay share: what they are told, where they write what they find, and what the record holds."""

    rule: Rule[Any]
    segments: tuple[Segment, ...]
    judge: Judge
    findings: Findings
    comparison: Comparison | None = None
    """With the records of other ranks, if there are any."""
    coverage: Coverage = field(default_factory=Coverage)
    notes: list[str] = field(default_factory=list[str])
    warnings: list[str] = field(default_factory=list[str])
    steps: int = 0
    skipped: int = 0
    tensors: set[str] = field(default_factory=set[str])
    moving: set[str] = field(default_factory=set[str])
    """Tensors with elements that took a step."""
    first_options: list[dict[str, Option]] = field(default_factory=list[dict[str, Option]])
    """By group, at the first step on record."""
    last_options: list[dict[str, Option]] = field(default_factory=list[dict[str, Option]])
    known_bugs: set[str] = field(default_factory=set[str])
    """What torch is known to do wrong with tensors of the record."""
    unclaimed: set[str] = field(default_factory=set[str])
    """Checks with numbers on record that no claim says anything of."""
    _claims: dict[tuple[str, str], str] = field(default_factory=dict[tuple[str, str], str])

    def claimed(self, check: str, claim: str, untested: str) -> None:
        """Take in that a segment makes a claim. `untested`: why nothing in it could have contradicted the claim; empty if
        something could.
        """
        if self._claims.get((check, claim)) != "":
            self._claims[check, claim] = untested

    @property
    def claims_not_tested(self) -> tuple[str, ...]:
        """Return the claims that no segment tested, each with the reason."""
        return tuple(f"{claim}: {why}" for (_, claim), why in self._claims.items() if why)

    @property
    def checks_claimed(self) -> set[str]:
        """Return the checks that something was claimed for."""
        return {check for check, _ in self._claims}


class Check:
    """One question about one segment of a trace.

    A replay makes one of each kind for every segment, which calls `start`, hands it each part and then each tensor of that
    part, and calls `finish` when the segment is over. A check takes what it needs of that and leaves the rest.
    """

    answered: bool = False
    """Whether the record held enough to answer the question."""

    def __init__(self, segment: Segment, context: Context, earlier: Sequence[Self]) -> None:
        """`earlier`: the checks of the same kind that saw the segments before this one."""
        self.segment, self.context, self.earlier = segment, context, earlier
        self.claims = segment.header.claims or Claims()
        self.start()

    def start(self) -> None:
        """Set up what is gathered over the segment."""

    def part(self, part: Part, options: list[list[dict[str, Option]]], /) -> None:
        """Take in the steps of the next part. `options`: of each step and parameter group, complete."""

    def tensor(self, tensor: TensorBlock) -> None:
        """Take in the rows of a tensor in that part. Raises TraceError if they lack what the check needs."""

    def finish(self) -> None:
        """Draw the conclusions that need the whole segment. Raises TraceError if what it claims is not usable.

        It must hand no rows to `context.judge`: a report on a growing trace calls it on a copy that shares the judge.
        """
