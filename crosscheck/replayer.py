"""Replaying a trace: every recorded step once more, by Optax, in float64. Never imports torch."""

import re
from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import jax
import numpy as np

from crosscheck.batches import WIDTH, Batch, Batcher, Origin
from crosscheck.diagnose import causes, take_rows
from crosscheck.errors import TraceError, UnsupportedOptimizer
from crosscheck.judge import Inputs, Judged, judge
from crosscheck.report import Finding, Report, Verdict
from crosscheck.rows import TensorBlock, complete_options, tensor_blocks
from crosscheck.rules import RULES
from crosscheck.rules.rule import Flags, Rule
from crosscheck.structure import Structure, position
from crosscheck.tolerance import FAIL, WARN
from crosscheck.trace.format import PARAM
from crosscheck.trace.reader import LoadedPart, Segment, open_trace


def replay(path: str | Path) -> Report:
    """Hold every recorded step against its formula.

    Each step starts from the recorded parameters, gradients and state and is computed in float64 by the Optax
    chain of the trace's rule; see `crosscheck.judge` for the criterion and `crosscheck.tolerance` for the
    thresholds. One part is in memory at a time. `path` is a trace, or a run's folder with `trace/` in it.

    Raises:
        TraceError: Not a trace, or a damaged one.
        UnsupportedOptimizer: There is no rule for what was recorded.
    """
    segments = open_trace(Path(path))
    name = segments[0].header.rule
    if name not in RULES:
        raise UnsupportedOptimizer(f"{path} claims the rule {name!r}; there are rules for {', '.join(RULES)}")
    with _float64(), ThreadPoolExecutor(max_workers=1) as worker:
        return _Replay(RULES[name], worker).run(segments)


@contextmanager
def _float64() -> Generator[None]:
    """Not jax.config: a library must not change the arithmetic of its user's process. Holds for one thread."""
    with jax.enable_x64(True), jax.default_device(jax.devices("cpu")[0]):
        yield


_AHEAD = 8  # batches that may wait to be judged, some 10 MiB each


@dataclass(slots=True)
class _Spread:
    """The findings of one kind, as one."""

    first: Finding
    elements: int = 0
    steps: set[int] = field(default_factory=set[int])

    def add(self, finding: Finding) -> None:
        if (finding.step, -finding.eta) < (self.first.step, -self.first.eta):
            self.first = finding
        self.elements += finding.elements
        self.steps.add(finding.step)

    def whole(self) -> Finding:
        return replace(self.first, elements=self.elements, steps=len(self.steps), last_step=max(self.steps))


class _Replay:
    """One replay: what has been seen so far."""

    def __init__(self, rule: Rule, worker: ThreadPoolExecutor) -> None:
        self.rule = rule
        self.worker = worker
        self.waiting: deque[tuple[Batch, Future[Judged]]] = deque()  # while XLA compiles, reading goes on
        self.batcher = Batcher(rule)
        self.spreads: dict[tuple[str, str], _Spread] = {}
        self.power: dict[str, float] = {}  # the worker's until all is judged
        self.max_eta, self.worst = 0.0, "no element"
        self.close_calls: dict[str, tuple[float, str]] = {}
        self.samples: dict[Flags, Inputs] = {}  # rows that disagree, from the first batch that has any
        self.elements = self.out_of_range = self.steps = self.skipped = 0
        self.tensors: set[str] = set()
        self.causes: list[str] | None = None
        self.notes: list[str] = []

    def run(self, segments: tuple[Segment, ...]) -> Report:
        for segment in segments:
            self._segment(segment, joined=segment is not segments[0])
        for batch in self.batcher.rest():
            self._judge(batch)
        while self.waiting:
            self._take_in(*self.waiting.popleft())
        return self._report(segments)

    def _segment(self, segment: Segment, *, joined: bool) -> None:
        structure = Structure(zero_is_absent=self.rule.counts, from_start=segment.header.first_step == 1)
        shapes: list[tuple[str, tuple[int, ...], str]] = []
        last_step = segment.header.first_step - 1
        for part in segment.parts():
            shapes = _same_tensors(part, shapes)
            for batch in self._part(part, structure):
                self._judge(batch)
            last_step = part.meta.steps[-1].step
        if joined:
            self.notes.append(
                f"a run resumed here, at step {segment.header.first_step}, recorded {segment.folder.name}"
            )
        if segment.end is None:
            self.notes.append(
                f"{segment.folder.name} ends at step {last_step} without being closed: the run was killed or is still going on; "
                "steps that were not committed are not in it"
            )

    def _part(self, part: LoadedPart, structure: Structure) -> Iterator[Batch]:
        steps = part.meta.steps
        self.steps += len(steps)
        self.skipped += sum(not step.applied for step in steps)
        options = complete_options(steps)
        for finding in structure.look_at_options(steps, options):
            self._note_finding(finding)
        for block in tensor_blocks(part, options):
            self.tensors.add(block.info.name)
            for finding in structure.look(block):
                self._note_finding(finding)
            for finding in _step_counts(self.rule, block):
                self._note_finding(finding)
            try:
                yield from self.batcher.add(block)
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
        untold = [name for name in self.rule.matters(batch.flags) if not self.power.get(name, 0.0) > FAIL]
        with _float64():
            result = judge(self.rule, batch.flags, batch.inputs, untold)
        for name, eta in result.power.items():
            self.power[name] = max(self.power.get(name, 0.0), eta)
        return result

    def _take_in(self, batch: Batch, future: Future[Judged]) -> None:
        result = future.result()
        names = (PARAM, *self.rule.slots(batch.flags))
        self.elements += int(result.checked.sum())
        self.out_of_range += int(result.out_of_range.sum())
        row, output = np.unravel_index(int(np.argmax(result.eta)), result.eta.shape)
        if not result.eta[row, output] <= self.max_eta and row < len(batch.origins):
            self.max_eta = float(result.eta[row, output])
            self.worst = _describe(batch.origins[row], names[output], result, int(row), int(output))
        etas = result.eta[: len(batch.origins)]  # the other rows are padding
        wrong = np.flatnonzero(np.any(~(etas <= FAIL), axis=1))
        if len(wrong) and batch.flags not in self.samples:
            self.samples[batch.flags] = take_rows(batch.inputs, wrong)
        for output, name in enumerate(names):
            never = ~batch.inputs.judged[: len(batch.origins), output]
            for row in np.flatnonzero(never):
                self._note_finding(_never_written(batch.origins[row], name))
            for row in np.flatnonzero(~(etas[:, output] <= WARN)):
                origin, eta = batch.origins[row], float(result.eta[row, output])
                if eta <= FAIL:
                    call = _describe(origin, name, result, int(row), output)
                    self.close_calls[name] = max(self.close_calls.get(name, (0.0, "")), (eta, call))
                else:
                    self._note_finding(_disagreement(origin, name, self.rule, result, int(row), output))

    def _note_finding(self, finding: Finding) -> None:
        key = (finding.slot, re.sub(r"\d+", "N", finding.cause))  # the same fault at another step is the same kind
        self.spreads.setdefault(key, _Spread(finding)).add(finding)

    def _report(self, segments: tuple[Segment, ...]) -> Report:
        findings = sorted((self._explained(spread.whole()) for spread in self.spreads.values()), key=_order)
        power = {name: self.power.get(name, 0.0) for name in self.batcher.used}
        not_tested = tuple(name for name, eta in power.items() if not eta > FAIL)
        reason = ""
        if not findings:
            reason = self._vacuous(not_tested)
        verdict = Verdict.MISMATCH if findings else Verdict.VACUOUS if reason else Verdict.MATCH
        warnings = [
            f"{name} comes within a factor of two of the limit: {call}" for name, (_, call) in self.close_calls.items()
        ]
        return Report(
            verdict=verdict,
            reason=reason,
            optimizer=segments[0].header.optimizer,
            rule=self.rule.name,
            profiles=tuple(self.batcher.profiles),
            own=tuple(self.batcher.own),
            max_eta=self.max_eta,
            worst=self.worst,
            findings=tuple(findings),
            warnings=tuple(warnings),
            notes=tuple(self.notes),
            not_tested=not_tested,
            power=power,
            off_by=self.batcher.off_by,
            steps=self.steps,
            skipped=self.skipped,
            tensors=len(self.tensors),
            elements=self.elements,
            out_of_range=self.out_of_range,
        )

    def _explained(self, finding: Finding) -> Finding:
        """A disagreement with the formula gets the mistakes that explain it."""
        if finding.cause != _disagrees(finding.slot, self.rule):
            return finding
        if self.causes is None:
            each = [causes(self.rule, flags, inputs) for flags, inputs in self.samples.items()]
            self.causes = list(dict.fromkeys(cause for found in each for cause in found))
        why = " or ".join(self.causes) or "no mistake of the catalogue explains it"
        return replace(finding, cause=f"{finding.cause}: {why}")

    def _vacuous(self, not_tested: tuple[str, ...]) -> str:
        if not self.steps:
            return "no step was committed to the record"
        if not self.elements:
            return "no recorded step moved anything that could be checked"
        if len(not_tested) == len(self.batcher.used):
            return f"no hyperparameter in use could have been told from one {self.batcher.off_by:.0%} off: nothing here could have failed"
        return ""


def _order(finding: Finding) -> tuple[int, bool, str]:
    """By step; at the same step the state comes before the parameter that is computed from it."""
    return finding.step, finding.slot == PARAM, finding.slot


def _describe(origin: Origin, name: str, result: Judged, row: int, output: int) -> str:
    block, column = origin.block, origin.column + int(result.element[row, output])
    where = list(position(block, column))
    return (
        f"eta {float(result.eta[row, output]):.3g} at step {block.steps[origin.row].step}, {block.info.name}{where}, {name}: "
        f"recorded {float(result.recorded[row, output]):.9g}, expected {float(result.expected[row, output]):.9g}"
    )


def _disagrees(name: str, rule: Rule) -> str:
    return f"{name} is not what {rule.name} makes of the recorded inputs"


def _disagreement(origin: Origin, name: str, rule: Rule, result: Judged, row: int, output: int) -> Finding:
    block, column = origin.block, origin.column + int(result.element[row, output])
    step = block.steps[origin.row].step
    return Finding(
        step=step,
        last_step=step,
        tensor=block.info.name,
        slot=name,
        index=position(block, column),
        recorded=float(result.recorded[row, output]),
        expected=float(result.expected[row, output]),
        eta=float(result.eta[row, output]),
        cause=_disagrees(name, rule),
        elements=int(result.over[row, output]),
    )


def _never_written(origin: Origin, name: str) -> Finding:
    step = origin.block.steps[origin.row].step
    return Finding(
        step=step,
        last_step=step,
        tensor=origin.block.info.name,
        slot=name,
        index=None,
        recorded=None,
        expected=None,
        eta=float("inf"),
        cause=f"{name} was never written, though the step was applied",
        elements=min(WIDTH, len(origin.block.coordinates) - origin.column),
    )


def _step_counts(rule: Rule, block: TensorBlock) -> Iterator[Finding]:
    """torch counts steps tensor by tensor: each applied one adds exactly 1."""
    count = block.slots.get("step")
    if not rule.counts or count is None:
        return
    for row, step in enumerate(block.steps):
        before, after = float(count.before[row, 0]), float(count.after[row, 0])
        if step.applied and block.has_grad[row] and after != before + 1:
            yield Finding(
                step=step.step,
                last_step=step.step,
                tensor=block.info.name,
                slot="step",
                index=None,
                recorded=after,
                expected=before + 1,
                eta=float("inf"),
                cause=f"step went from {before:g} to {after:g}; every applied step adds 1",
            )


def _same_tensors(
    part: LoadedPart, earlier: list[tuple[str, tuple[int, ...], str]]
) -> list[tuple[str, tuple[int, ...], str]]:
    """The list of tensors only grows; those on it keep name, shape and dtype. Raises TraceError."""
    now = [(tensor.name, tensor.shape, tensor.dtype) for tensor in part.meta.tensors]
    for number, (before, after) in enumerate(zip(earlier, [*now, *[None] * len(earlier)], strict=False)):
        if before != after:
            raise TraceError(f"{part.path}: tensor {number} was {before} in the part before and is {after} here")
    return now
