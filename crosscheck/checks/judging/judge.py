"""Judges elements for all checks that need it: in batches, in a worker, while reading goes on."""

from collections import Counter, deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from crosscheck.checks.judging.arithmetic import written_out
from crosscheck.checks.judging.power import Groups
from crosscheck.checks.judging.tally import Tally, all_together, disagreements, never_written
from crosscheck.criterion.batches import Batch, Batcher
from crosscheck.criterion.elementwise import Judged, judge
from crosscheck.criterion.profile import Profile
from crosscheck.diagnosis.cause import in_common
from crosscheck.diagnosis.diagnose import diagnose
from crosscheck.diagnosis.failing import Failing
from crosscheck.diagnosis.shape import unexplained
from crosscheck.float64 import float64
from crosscheck.report.finding import Arithmetic, Finding
from crosscheck.report.findings import ElementPlace, Explanation, Findings
from crosscheck.report.report import Power
from crosscheck.rules.rule import Flags, Rule
from crosscheck.trace.tensors import TensorBlock

_AHEAD = 32  # batches that may wait to be judged, some 2.5 MiB each
_OFTEN = 64  # batches of one formula: about so many can be computed uncompiled in the time that compiling takes


class Judge:
    """Has tensors judged by rules and writes what is wrong to the findings.

    While XLA compiles, reading goes on: a worker judges, and what it has finished is taken in by the reading thread.
    """

    def __init__(self, worker: ThreadPoolExecutor, findings: Findings) -> None:
        self.tally = Tally()
        self.groups: dict[str, Groups] = {}
        """By rule: what its rows say of the hyperparameters."""
        self._worker, self._findings = worker, findings
        self._batchers: dict[str, Batcher] = {}
        self._waiting: deque[tuple[Batch, Future[Judged]]] = deque()
        self._judged: Counter[tuple[Rule[Any], Flags]] = Counter()  # batches; not by process, so that a trace decides
        self._failing: dict[tuple[Rule[Any], Flags], Failing] = {}

    def batcher(self, rule: Rule[Any], profile: Profile | None = None) -> Batcher:
        """Return what gathers rows for a rule. `profile`: of all tensors, whatever implementation stepped them."""
        return self._batchers.setdefault(rule.name, Batcher(rule, profile))

    def add(self, rule: Rule[Any], tensor: TensorBlock) -> None:
        """Have the applied steps of a tensor judged by a rule. Raises TraceError if the rule misses something."""
        for batch in self._batchers[rule.name].add(tensor):
            self._submit(batch)

    def settle(self) -> None:
        """Judge the batches that are not full, and wait for all."""
        for batcher in self._batchers.values():
            for batch in batcher.flush():
                self._submit(batch)
        while self._waiting:
            self._take_in(*self._waiting.popleft())

    def together(self) -> Iterator[Finding]:
        """Yield what no element shows, but all of those judged so far together do."""
        for name, groups in self.groups.items():
            if not self._failing_of(name):  # otherwise the elements say it already, and more exactly
                yield from all_together(self._batchers[name].rule, groups)

    def power(self) -> dict[str, dict[str, Power]]:
        """Return the power for each hyperparameter in use: by group, or by check where it is not a group's."""
        return {
            f"group {group}" if batcher.rule.of_parameters else batcher.rule.check: self.groups[rule].power(
                group, list(names)
            )
            for rule, batcher in self._batchers.items()
            if rule in self.groups
            for group, names in batcher.used.items()
            if names
        }

    def explain(self, rule: str) -> Explanation:
        """Return what explains the rows that disagree with the rule of this name, and the first of them written out."""
        failing = self._failing_of(rule)
        found = [diagnose(its, flags, rows.sample()) for its, flags, rows in failing]
        said = in_common(found) or [unexplained(failing)] if failing else []
        written: dict[ElementPlace, Arithmetic] = {}
        for (its, flags, rows), causes in zip(failing, found, strict=True):
            told = next((cause for cause in causes if cause.sentence in said[0]), None)
            written |= written_out(its, flags, rows, told)
        return Explanation(said, written)

    def _failing_of(self, rule: str) -> list[tuple[Rule[Any], Flags, Failing]]:
        return [(its, flags, rows) for (its, flags), rows in self._failing.items() if its.name == rule and rows]

    def _submit(self, batch: Batch) -> None:
        """Hand a batch to the worker, and take in those that it has finished."""
        self._judged[batch.rule, batch.flags] += 1
        often = self._judged[batch.rule, batch.flags] > _OFTEN
        self._waiting.append((batch, self._worker.submit(_judge, batch, often)))
        while self._waiting and (len(self._waiting) > _AHEAD or self._waiting[0][1].done()):
            self._take_in(*self._waiting.popleft())

    def _take_in(self, batch: Batch, future: Future[Judged]) -> None:
        judged = future.result()
        self.tally.add(batch, judged)
        self.groups.setdefault(batch.rule.name, Groups(batch.rule)).add(batch, judged)
        self._failing.setdefault((batch.rule, batch.flags), Failing()).add(batch, judged)
        self._findings.add(never_written(batch))
        self._findings.add(disagreements(batch, judged), batch.rule.name)


def _judge(batch: Batch, often: bool) -> Judged:
    """Judge a batch, in the worker."""
    with float64():
        return judge(batch.rule, batch.flags, batch.inputs, often=often)
