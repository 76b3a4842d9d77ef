"""Replaying a trace: every recorded step once more, by Optax, in float64. Never imports torch."""

import re
from collections import deque
from collections.abc import Collection, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np

from crosscheck.checks.attempts import Attempts
from crosscheck.checks.backward import check_pass
from crosscheck.checks.continuity import Left, Structure
from crosscheck.checks.findings import Spread, check_of, describe, disagreement, never_written, order, step_counts
from crosscheck.checks.options import OptionsCheck
from crosscheck.checks.views import NORMED, PLAIN, Views
from crosscheck.criterion.batches import Batch, Batcher
from crosscheck.criterion.elementwise import Judged, judge
from crosscheck.diagnosis.diagnose import causes, take_rows
from crosscheck.errors import TraceError, UnsupportedOptimizer
from crosscheck.float64 import float64
from crosscheck.report.coverage import Coverage, spans
from crosscheck.report.report import CHECKS, NOT_RECORDED, Finding, Report, Verdict
from crosscheck.rules import RULES
from crosscheck.rules.average import MOVING_AVERAGE
from crosscheck.rules.gradient import GRADIENT
from crosscheck.rules.inputs import Inputs
from crosscheck.rules.rule import Flags, Rule
from crosscheck.tolerance import FAIL, WARN
from crosscheck.trace.reader import LoadedPart, Segment, open_trace
from crosscheck.trace.tensors import complete_options, tensor_blocks


def replay(path: str | Path, *, require: Iterable[str] = ()) -> Report:
    """Hold every recorded step against its formula.

    Each step starts from the recorded parameters, gradients and state and is computed in float64 by the Optax
    chain of the trace's rule; see `crosscheck.criterion.elementwise` for the criterion and `crosscheck.tolerance` for the
    thresholds. One part is in memory at a time. `path` is a trace, or a run's folder with `trace/` in it.

    `require` names checks (see `crosscheck.report.report.CHECKS`) that the record must be able to answer.

    Raises:
        TraceError: Not a trace, a damaged one, or one without what a required check needs.
        UnsupportedOptimizer: There is no rule for what was recorded.
    """
    segments = open_trace(Path(path))
    name = segments[0].header.rule
    if name not in RULES:
        raise UnsupportedOptimizer(f"{path} claims the rule {name!r}; there are rules for {', '.join(RULES)}")
    with float64(), ThreadPoolExecutor(max_workers=1) as worker:
        report = _Replay(RULES[name], worker).run(segments)
    for check in require:
        if report.checks.get(check, NOT_RECORDED) == NOT_RECORDED:
            raise TraceError(f"{path}: {check} was not recorded; what was: {', '.join(_recorded(report))}")
    return report


_AHEAD = 8  # batches that may wait to be judged, some 10 MiB each


class _Replay:
    """One replay: what has been seen so far."""

    def __init__(self, rule: Rule, worker: ThreadPoolExecutor) -> None:
        self.rule = rule
        self.worker = worker
        self.waiting: deque[tuple[Batch, Future[Judged]]] = deque()  # while XLA compiles, reading goes on
        self.batcher = Batcher(rule)
        self.of_gradients, self.of_averages = Batcher(GRADIENT, NORMED), Batcher(MOVING_AVERAGE, PLAIN)
        self.spreads: dict[tuple[str, str], Spread] = {}
        self.power: dict[str, float] = {}  # the worker's until all is judged
        self.max_eta, self.worst = 0.0, "no element"
        self.eta: dict[str, float] = {}  # the largest, by slot
        self.close_calls: dict[str, tuple[float, str]] = {}
        self.samples: dict[tuple[Rule, Flags], Inputs] = {}  # rows that disagree, from the first batch that has any
        self.elements = self.out_of_range = self.steps = self.skipped = 0
        self.tensors: set[str] = set()
        self.settled: list[Finding] = []  # findings that are whole as they are
        self.causes: dict[Rule, list[str]] = {}
        self.notes: list[str] = []
        self.coverage = Coverage()
        self.before_joins: set[int] = set()  # steps
        self.ends: dict[int, dict[int, Left]] = {}  # what those left of each tensor
        self.seen: set[str] = set()  # checks that had something to look at

    def run(self, segments: tuple[Segment, ...]) -> Report:
        self.before_joins = {segment.header.first_step - 1 for segment in segments[1:]}
        for segment in segments:
            self._segment(segment, joined=segment is not segments[0])
        for batcher in (self.batcher, self.of_gradients, self.of_averages):
            for batch in batcher.flush():
                self._judge(batch)
        while self.waiting:
            self._take_in(*self.waiting.popleft())
        return self._report(segments)

    def _segment(self, segment: Segment, *, joined: bool) -> None:
        first_step = segment.header.first_step
        structure = Structure(
            zero_is_absent=self.rule.counts,  # Adam's moments start as zeros; SGD's buffer is its first gradient
            from_start=first_step == 1,
            left=dict(self.ends.get(first_step - 1, {})),
        )
        claims = segment.header.claims
        views, options = Views(claims, segment.header.world_size), OptionsCheck(claims and claims.options)
        shapes: list[tuple[str, tuple[int, ...], str]] = []
        last_step = first_step - 1
        attempts = Attempts(segment.header)
        for part in segment.parts():
            shapes = _same_tensors(part, shapes)
            for batch in self._part(part, structure, views, options, attempts):
                self._judge(batch)
            last_step = part.meta.steps[-1].step
            if last_step in self.before_joins:
                self.ends[last_step] = dict(structure.left)
        self.notes += views.notes()
        self.settled += attempts.findings()
        self.seen |= attempts.judged
        for recorded in segment.passes():
            checked = check_pass(recorded)
            self.seen.add("backward")
            self.notes.append(checked.note)
            for finding in checked.findings:
                self._note_finding(finding)
        twice = self.coverage.add(range(first_step, last_step + 1))
        if joined:
            self.notes.append(_join(segment, twice, len(structure.resumed)))
        if segment.end is None:
            self.notes.append(
                f"{segment.folder.name} ends at step {last_step} without being closed: the run was killed or is still going on; "
                "steps that were not committed are not in it"
            )

    def _part(
        self, part: LoadedPart, structure: Structure, views: Views, of_options: OptionsCheck, attempts: Attempts
    ) -> Iterator[Batch]:
        steps = part.meta.steps
        self.steps += len(steps)
        self.skipped += sum(not step.applied for step in steps)
        options = complete_options(steps)
        attempts.add(part.meta, options)
        if "learning rate" not in attempts.judged:
            for finding in structure.look_at_options(steps, options):
                self._note_finding(finding)
        for finding in (*views.start(part.meta), *of_options.look(part.meta.tensors, steps, options)):
            self._note_finding(finding)
        if of_options.compared:
            self.seen.add("options")
        for block in tensor_blocks(part, options):
            self.tensors.add(block.info.name)
            for finding in structure.look(block):
                self._note_finding(finding)
            for finding in step_counts(self.rule, block):
                self._note_finding(finding)
            try:
                yield from self.batcher.add(block)
                for batcher, view in (
                    (self.of_gradients, views.gradient(block)),
                    (self.of_averages, views.average(block)),
                ):
                    if view is not None:
                        self.seen.add(check_of(batcher.rule))
                        yield from batcher.add(view)
            except TraceError as error:
                raise TraceError(f"{part.path}: {error}") from None

    def _judge(self, batch: Batch) -> None:
        """Have the batch judged; take in what has been."""
        self.waiting.append((batch, self.worker.submit(self._judged, batch)))
        while len(self.waiting) > _AHEAD or self.waiting[0][1].done():
            self._take_in(*self.waiting.popleft())
            if not self.waiting:
                break

    def _judged(self, batch: Batch) -> Judged:
        """In the worker. A hyperparameter whose error has been shown to show need not be tried again."""
        untold = [name for name in batch.rule.matters(batch.flags) if not self.power.get(name, 0.0) > FAIL]
        with float64():
            result = judge(batch.rule, batch.flags, batch.inputs, untold)
        for name, eta in result.power.items():
            self.power[name] = max(self.power.get(name, 0.0), eta)
        return result

    def _take_in(self, batch: Batch, future: Future[Judged]) -> None:
        result = future.result()
        rule, names = batch.rule, (batch.rule.moved, *batch.rule.slots(batch.flags))
        self.seen.add(check_of(rule))
        if rule is self.rule:
            self.elements += int(result.checked.sum())
        self.out_of_range += int(result.out_of_range.sum())
        row, output = np.unravel_index(int(np.argmax(result.eta)), result.eta.shape)
        if not result.eta[row, output] <= self.max_eta and row < len(batch.origins):
            self.max_eta = float(result.eta[row, output])
            self.worst = describe(batch.origins[row], names[output], result, int(row), int(output))
        etas = result.eta[: len(batch.origins)]  # the other rows are padding
        for name, largest in zip(names, np.max(etas, axis=0, initial=0.0), strict=True):
            if not largest <= self.eta.get(name, -1.0):
                self.eta[name] = float(largest)
        wrong = np.flatnonzero(np.any(~(etas <= FAIL), axis=1))
        if len(wrong) and (rule, batch.flags) not in self.samples:
            self.samples[rule, batch.flags] = take_rows(batch.inputs, wrong)
        for output, name in enumerate(names):
            never = ~batch.inputs.judged[: len(batch.origins), output]
            for row in np.flatnonzero(never):
                self._note_finding(never_written(batch.origins[row], name))
            for row in np.flatnonzero(~(etas[:, output] <= WARN)):
                origin, eta = batch.origins[row], float(result.eta[row, output])
                if eta <= FAIL:
                    call = describe(origin, name, result, int(row), output)
                    self.close_calls[name] = max(self.close_calls.get(name, (0.0, "")), (eta, call))
                else:
                    self._note_finding(disagreement(origin, name, rule, result, int(row), output), rule)

    def _note_finding(self, finding: Finding, rule: Rule | None = None) -> None:
        """`rule`: the formula that it disagrees with."""
        key = (finding.slot, re.sub(r"\d+", "N", finding.cause))  # the same fault at another step is the same kind
        self.spreads.setdefault(key, Spread(finding, rule)).add(finding)

    def _report(self, segments: tuple[Segment, ...]) -> Report:
        explained = [self._explained(spread) for spread in self.spreads.values()]
        findings = sorted([*explained, *self.settled], key=order)
        used = {**self.batcher.used, **self.of_gradients.used, **self.of_averages.used}
        power = {name: self.power.get(name, 0.0) for name in used}
        not_tested = tuple(name for name, eta in power.items() if not eta > FAIL)
        reason = ""
        if not findings:
            reason = self._vacuous(not_tested)
        verdict = Verdict.MISMATCH if findings else Verdict.VACUOUS if reason else Verdict.MATCH
        warnings = [
            f"{name} comes within a factor of two of the limit: {call}" for name, (_, call) in self.close_calls.items()
        ]
        missing = self.coverage.missing()
        if missing:
            warnings.append(
                f"no segment holds {spans(missing)}: the run took them, but was killed before they were committed, or did "
                "not record; nothing is known of them"
            )
        return Report(
            verdict=verdict,
            reason=reason,
            optimizer=segments[0].header.optimizer,
            rule=self.rule.name,
            profiles=tuple(self.batcher.profiles),
            own=tuple(self.batcher.own),
            max_eta=self.max_eta,
            worst=self.worst,
            eta=self.eta,
            findings=tuple(findings),
            warnings=tuple(warnings),
            notes=tuple(self.notes),
            not_tested=not_tested,
            checks={name: _came_to(name, self.seen, findings) for name in CHECKS},
            power=power,
            off_by=self.batcher.off_by,
            steps=self.steps,
            skipped=self.skipped,
            tensors=len(self.tensors),
            elements=self.elements,
            out_of_range=self.out_of_range,
        )

    def _explained(self, spread: Spread) -> Finding:
        """A disagreement with a formula gets the mistakes that explain it."""
        finding = spread.whole()
        if spread.rule is None:
            return finding
        why = " or ".join(self._causes(spread.rule)) or "no mistake of the catalogue explains it"
        return replace(finding, cause=f"{finding.cause}: {why}")

    def _causes(self, rule: Rule) -> list[str]:
        if rule not in self.causes:
            each = [causes(its, flags, inputs) for (its, flags), inputs in self.samples.items() if its is rule]
            self.causes[rule] = list(dict.fromkeys(cause for found in each for cause in found))
        return self.causes[rule]

    def _vacuous(self, not_tested: tuple[str, ...]) -> str:
        if not self.steps:
            return "no step was committed to the record"
        if not self.elements:
            return "no recorded step moved anything that could be checked"
        if set(self.batcher.used) <= set(not_tested):
            return f"no hyperparameter in use could have been told from one {self.batcher.off_by:.0%} off: nothing here could have failed"
        return ""


def _join(segment: Segment, twice: list[range], compared: int) -> str:
    """`compared`: tensors whose state was held against what the step before had left."""
    step = segment.header.first_step
    said = f"a run resumed here, at step {step}, recorded {segment.folder.name}; "
    if step == 1:
        said += "from the beginning again"
    elif compared:
        said += f"its {compared} tensors and their slots were held, bit for bit, against what step {step - 1} left"
    else:
        said += f"what step {step - 1} left is not on record, so nothing says whether the run went on from there"
    return f"{said}; {spans(twice)} recorded before as well, and judged both times" if twice else said


def _same_tensors(
    part: LoadedPart, earlier: list[tuple[str, tuple[int, ...], str]]
) -> list[tuple[str, tuple[int, ...], str]]:
    """The list of tensors only grows; those on it keep name, shape and dtype. Raises TraceError."""
    now = [(tensor.name, tensor.shape, tensor.dtype) for tensor in part.meta.tensors]
    for number, (before, after) in enumerate(zip(earlier, [*now, *[None] * len(earlier)], strict=False)):
        if before != after:
            raise TraceError(f"{part.path}: tensor {number} was {before} in the part before and is {after} here")
    return now


def _came_to(check: str, seen: Collection[str], findings: Iterable[Finding]) -> str:
    if any(finding.check == check for finding in findings):
        return str(Verdict.MISMATCH)
    return str(Verdict.MATCH) if check in seen else NOT_RECORDED


def _recorded(report: Report) -> list[str]:
    return [check for check, result in report.checks.items() if result != NOT_RECORDED]
