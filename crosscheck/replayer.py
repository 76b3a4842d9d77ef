"""Replaying a trace: every recorded step once more, by Optax, in float64. Never imports torch."""

import copy
import math
from collections.abc import Collection, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import jax
import numpy as np
import optax

from crosscheck.checks import CHECKS, load_checks
from crosscheck.checks.check import Check, Context
from crosscheck.checks.comparison import Comparison
from crosscheck.checks.judge import Judge
from crosscheck.errors import TraceError, UnsupportedOptimizer
from crosscheck.float64 import float64
from crosscheck.report.coverage import spans
from crosscheck.report.findings import Findings
from crosscheck.report.ranks import of_all_ranks
from crosscheck.report.report import NOT_RECORDED, NOT_TESTED, REPLICAS, Finding, Power, Report, Verdict
from crosscheck.rules import RULES
from crosscheck.text import listed
from crosscheck.trace.format import Option
from crosscheck.trace.reader import LoadedPart, PartReader, Segment, open_ranks
from crosscheck.trace.tensors import complete_options, tensor_blocks

_UNANSWERED = (NOT_RECORDED, NOT_TESTED)
_GROUPS = 16  # whose options a report has


def replay(path: str | Path, *others: str | Path, require: Iterable[str] = ()) -> Report:
    """Hold every recorded step against its formula.

    Each step starts from the recorded parameters, gradients and state and is computed in float64 by the Optax
    chain of the trace's rule; see `crosscheck.criterion.elementwise` for the criterion and `crosscheck.tolerance` for
    the thresholds. One part of each rank is in memory at a time. `path` is a trace, or a run's folder with `trace/` in it;
    `others` are traces of other ranks of the run that were recorded into folders of their own.

    `require` names checks (see `crosscheck.checks.CHECKS`) that the record must be able to answer.

    Raises:
        TraceError: Not a trace, a damaged one, or one without what a required check needs.
        UnsupportedOptimizer: There is no rule for what was recorded.
    """
    with judging() as worker:
        replaying = Replaying(open_ranks(*map(Path, (path, *others))), worker)
        while replaying.advance():
            pass
        replaying.end()
        report = replaying.report()
    for check in require:
        result = report.checks.get(check, NOT_RECORDED)
        if result in _UNANSWERED:
            recorded = [name for name, result in report.checks.items() if result not in _UNANSWERED]
            raise TraceError(f"{path}: {check} was {result}; what was recorded: {', '.join(recorded)}")
    return report


@contextmanager
def judging() -> Generator[ThreadPoolExecutor]:
    """Let JAX compute in float64, and yield the worker that judges."""
    with float64(), ThreadPoolExecutor(max_workers=1) as worker:
        yield worker


class Replaying:
    """A replay that is going on. It is fed part by part, and the last segment of each rank may still grow."""

    def __init__(
        self, ranks: Mapping[int, tuple[Segment, ...]], worker: ThreadPoolExecutor, *, growing: bool = False
    ) -> None:
        """`ranks`: the segments of each rank; `growing`: parts may still come to those that are not closed.

        Raises UnsupportedOptimizer.
        """
        self._growing = growing
        starts = {rank: [segment.header.first_step for segment in segments] for rank, segments in ranks.items()}
        self._comparison = Comparison(starts) if len(ranks) > 1 else None
        self._ranks = {rank: _Rank(segments, worker, self._comparison) for rank, segments in ranks.items()}
        self._world_size = max(segments[-1].header.world_size for segments in ranks.values())

    @property
    def last_step(self) -> int:
        """Return the last step that was fed of all ranks."""
        return min(rank.place[1] for rank in self._ranks.values())

    @property
    def has_findings(self) -> bool:
        """Return whether anything is wrong for certain; there may be more in what is not judged yet."""
        return bool(self._comparison) or any(rank.findings for rank in self._ranks.values())

    def advance(self) -> bool:
        """Feed the next part there is, of the rank that is most behind; return False if there is none, or none yet.

        Raises TraceError.
        """
        for number, rank in sorted(self._ranks.items(), key=lambda each: each[1].place):
            if rank.advance():
                return True
            if self._comparison is not None and not (self._growing and rank.is_open):
                self._comparison.end(number, rank.place[0])  # others are not to wait for it
        return False

    def end(self) -> None:
        """Draw the conclusions that need whole segments, when all of them were fed. Raises TraceError."""
        for rank in self._ranks.values():
            rank.end()

    def report(self) -> Report:
        """Return the report, once all ranks have ended."""
        return self._together({number: rank.report() for number, rank in self._ranks.items()})

    def so_far(self) -> Report:
        """Return the report as if what was fed were all, and leave everything as it is. Raises TraceError."""
        return self._together({number: rank.so_far() for number, rank in self._ranks.items()})

    def _together(self, reports: Mapping[int, Report]) -> Report:
        comparison = self._comparison
        if comparison is None:
            return next(iter(reports.values()))
        return of_all_ranks(
            reports,
            comparison.finding(),
            compared=comparison.rows > 0,
            notes=comparison.notes(self._world_size),
        )


class _Rank:
    """The replay of what one rank recorded."""

    def __init__(
        self, segments: tuple[Segment, ...], worker: ThreadPoolExecutor, comparison: Comparison | None
    ) -> None:
        """Raises UnsupportedOptimizer."""
        name = segments[0].header.rule
        if name not in RULES:
            folder = segments[0].folder.parent
            raise UnsupportedOptimizer(f"{folder} claims the rule {name!r}; there are rules for {', '.join(RULES)}")
        self.findings = Findings()
        self._context = Context(RULES[name], segments, Judge(worker, self.findings), self.findings, comparison)
        self._kinds = load_checks()
        self._asked: list[list[Check]] = [[] for _ in self._kinds]  # by kind, then by segment that has ended
        self._begin()

    def _begin(self) -> None:
        """Put every check to the next segment."""
        self._segment = self._context.segments[len(self._asked[0])]
        self._reader = PartReader(self._segment)
        self._checks = [
            kind(self._segment, self._context, earlier)
            for (_, kind), earlier in zip(self._kinds, self._asked, strict=True)
        ]

    @property
    def place(self) -> tuple[int, int]:
        """Return the segment that is being fed, from 0, and its last step that was."""
        return len(self._asked[0]), self._reader.last_step

    @property
    def is_open(self) -> bool:
        """Return whether the segment that is being fed was not closed."""
        return self._segment.end is None

    def advance(self) -> bool:
        """Feed the next part there is; return False if there is none, or none yet. Raises TraceError."""
        while True:
            for part in self._reader.unread():
                self._feed(part)
                return True
            if self._segment is self._context.segments[-1]:
                return False
            self.end()
            self._begin()

    def _feed(self, part: LoadedPart) -> None:
        """Hand a part and its tensors to all checks of its segment. Raises TraceError."""
        context = self._context
        context.steps += len(part.meta.steps)
        context.skipped += sum(not step.applied for step in part.meta.steps)
        options = complete_options(part.meta.steps)
        context.first_options, context.last_options = context.first_options or options[0], options[-1]
        for check in self._checks:
            check.part(part.meta, options)
        for tensor in tensor_blocks(part, options):
            context.tensors.add(tensor.info.name)
            if tensor.info.numel and any(
                step.applied and has for step, has in zip(tensor.steps, tensor.has_grad, strict=True)
            ):
                context.moving.add(tensor.info.name)
            try:
                for check in self._checks:
                    check.tensor(tensor)
            except TraceError as error:
                raise TraceError(f"{part.path}: {error}") from None

    def end(self) -> None:
        """Draw the conclusions that need the whole segment, when all of it was fed. Raises TraceError."""
        self._reader.check_end()
        self._conclude()

    def _conclude(self) -> None:
        for check, its_kind in zip(self._checks, self._asked, strict=True):
            check.finish()
            its_kind.append(check)

    def report(self) -> Report:
        """Return the report, once the last segment has ended."""
        self._context.judge.settle()
        self.findings.add(self._context.judge.together())
        asked = zip(self._kinds, self._asked, strict=True)
        return _report(self._context, {name for (name, _), checks in asked if any(check.answered for check in checks)})

    def so_far(self) -> Report:
        """Return the report as if the segment that is being fed ended here, and leave all as it is. Raises TraceError."""
        self._context.judge.settle()
        context = self._context
        shared = (context.judge, context.rule, context.comparison, *context.segments)
        copied = copy.deepcopy(self, {id(each): each for each in shared})
        copied._conclude()
        return copied.report()


def _report(context: Context, answered: Collection[str]) -> Report:
    judge, tally, rule = context.judge, context.judge.tally, context.rule
    batcher = judge.batcher(rule)
    findings = context.findings.in_order(judge.explain)
    power = judge.power()
    innocent = not any(finding.check == "optimizer" for finding in findings)
    unseen = [name for name, error in tally.smallest_rate_error.items() if 1 < error < math.inf]
    reason = _vacuous(context, batcher.used, power) if innocent else ""
    return Report(
        verdict=Verdict.MISMATCH if findings else Verdict.VACUOUS if reason else Verdict.MATCH,
        reason=reason,
        optimizer=context.segments[0].header.optimizer,
        rule=rule.name,
        profiles=tuple(batcher.profiles),
        own=tuple(batcher.own),
        max_eta=tally.max_eta,
        worst=tally.worst,
        eta=tally.eta,
        findings=tuple(findings),
        warnings=tuple(_warnings(context)),
        notes=(*context.notes, *_held_still(batcher.used)),
        not_tested=(*_not_tested(power), *_steps_not_tested(unseen)),
        checks={name: _came_to(name, answered, findings, context.checks_claimed) for name in _checks_of(context)},
        claims_not_tested=context.claims_not_tested,
        power=power,
        steps=context.steps,
        skipped=context.skipped,
        tensors=len(context.tensors),
        tensors_not_tested=len(unseen),
        elements=tally.elements[rule.name],
        out_of_range=tally.out_of_range,
        undetermined=tally.undetermined,
        survey=tally.eta_map.survey(),
        options=dict(_options(context)),
        versions=_versions(context),
        replayed_with={module.__name__: module.__version__ for module in (jax, optax, np)},
    )


def _options(context: Context) -> Iterator[tuple[str, dict[str, tuple[Option, Option]]]]:
    """Yield the options of each group at the first and at the last step; of a thousand groups the first few."""
    for group, (first, last) in enumerate(zip(context.first_options, context.last_options, strict=False)):
        if group < _GROUPS:
            yield f"group {group}", {name: (value, last.get(name)) for name, value in first.items()}


def _versions(context: Context) -> dict[str, str]:
    """Return with what the segments were recorded."""
    found: dict[str, dict[str, None]] = {}
    for segment in context.segments:
        for name, version in segment.header.versions.items():
            found.setdefault(name, {})[version] = None
    return {name: ", ".join(versions) for name, versions in found.items()}


def _checks_of(context: Context) -> Iterator[str]:
    """Yield the checks that can be put to the record: a run of one rank has no replicas."""
    alone = context.segments[-1].header.world_size == 1
    yield from (name for name in CHECKS if not (alone and name == REPLICAS))


def _vacuous(context: Context, used: Mapping[int, Collection[str]], power: Mapping[str, Mapping[str, Power]]) -> str:
    """Return why the record proves nothing, or nothing of some tensor or group; empty if it does."""
    tally = context.judge.tally
    if not context.steps:
        return "no step was committed to the record"
    if not tally.elements[context.rule.name]:
        return "no recorded step moved anything that could be checked"
    unseen = [name for name in sorted(context.moving) if not tally.parameters[name]]
    if unseen:
        return f"no element of {listed(unseen)} could be judged: the format cannot tell where it should be"
    moved = [group for group, names in used.items() if "lr" in names]  # a group at a rate of zero is held to not moving
    untold = [group for group in moved if "lr" not in _tested(power[f"group {group}"])]
    if untold or not moved:
        groups = " and ".join(f"group {group}" for group in untold) or "any group"
        where = "here" if len(untold) == len(moved) else "there"
        return f"not even a rate twice as large would have shown in {groups}: nothing {where} could have failed"
    return ""


def _tested(power: Mapping[str, Power]) -> list[str]:
    """Return the hyperparameters whose being off by all of themselves would have shown."""
    return [name for name, found in power.items() if found.smallest <= 1]


def _not_tested(power: Mapping[str, Mapping[str, Power]]) -> Iterator[str]:
    for where, each in power.items():
        for name in each:
            if name not in _tested(each):
                yield f"{name} of {where}" if len(power) > 1 else name


def _steps_not_tested(tensors: Sequence[str]) -> Iterator[str]:
    """Yield a line for tensors that moved, but of which no element would have shown a step twice as large."""
    if tensors:
        yield f"the step of {listed(tensors)} by itself (no element would have shown one twice as large)"


def _held_still(used: Mapping[int, Collection[str]]) -> Iterator[str]:
    """Yield a line for each group whose rate was zero at every step, if others moved."""
    still = [group for group, names in used.items() if "lr" not in names]
    if len(still) < len(used):
        yield from (f"group {group} had a rate of zero at every step, and was held to not moving" for group in still)


def _warnings(context: Context) -> Iterator[str]:
    yield from context.warnings
    for name, (_, call) in context.judge.tally.close_calls.items():
        yield f"{name} comes within a factor of two of the limit: {call}"
    missing = context.coverage.missing()
    if missing:
        yield (
            f"no segment holds {spans(missing)}: the run took them, but was killed before they were committed, or did "
            "not record; nothing is known of them"
        )


def _came_to(check: str, answered: Collection[str], findings: Iterable[Finding], claimed: Collection[str]) -> str:
    if any(finding.check == check for finding in findings):
        return str(Verdict.MISMATCH)
    if check in answered:
        return str(Verdict.MATCH)
    return NOT_TESTED if check in claimed else NOT_RECORDED
