"""Replays a trace: Optax computes every recorded step again, in float64. This never imports torch."""

import copy
from collections.abc import Generator, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from crosscheck.checks import CHECKS, load_checks
from crosscheck.checks.check import Check, Context
from crosscheck.checks.conclusion import conclude
from crosscheck.checks.judging.judge import Judge
from crosscheck.checks.ranks.comparison import Comparison
from crosscheck.checks.ranks.starts import Start
from crosscheck.errors import TraceError, UnsupportedOptimizer
from crosscheck.float64 import float64
from crosscheck.report.findings import Findings
from crosscheck.report.ranks import of_all_ranks
from crosscheck.report.report import Report
from crosscheck.report.verdict import CheckResult
from crosscheck.rules import RULES
from crosscheck.trace.reader import LoadedPart, PartReader, Segment, open_ranks
from crosscheck.trace.tensors import complete_options, tensor_blocks


def replay(path: str | Path, *others: str | Path, require: str | Iterable[str] = ()) -> Report:
    """Compute every recorded step again by its formula, and compare.

    Each step starts from the recorded parameters, gradients and state and is computed in float64 by the Optax
    chain of the trace's rule; see `crosscheck.criterion.elementwise` for the criterion and `crosscheck.tolerance` for
    the thresholds. One part of each rank is in memory at a time. `path` is a trace, or a run's folder with `trace/` in it;
    `others` are traces of other ranks of the run that were recorded into folders of their own.

    `require` names a check (see `crosscheck.checks.CHECKS`), or several, that the record must be able to answer.

    Raises:
        TraceError: Not a trace, a damaged one, or one without what a required check needs.
        UnsupportedOptimizer: There is no rule for what was recorded.
        ValueError: There is no check of a name in `require`.
    """
    required = (require,) if isinstance(require, str) else tuple(require)
    for check in required:
        if check not in CHECKS:
            raise ValueError(f"require: there is no check {check!r}; accepted are {', '.join(CHECKS)}")
    with judging() as worker:
        replaying = Replaying(open_ranks(*map(Path, (path, *others))), worker)
        while replaying.advance():
            pass
        replaying.end()
        report = replaying.report()
    for check in required:
        result = report.checks.get(check, CheckResult.NOT_RECORDED)
        if not result.is_answer:
            recorded = [name for name, result in report.checks.items() if result.is_answer]
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
        starts = {rank: _starts(segments, growing) for rank, segments in ranks.items()}
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
        for number, rank in sorted(self._ranks.items(), key=self._progress):
            if rank.advance():
                return True
            if self._comparison is not None and not (self._growing and rank.is_open):
                self._comparison.end(number, rank.place[0])  # others are not to wait for it
        return False

    def _progress(self, numbered: tuple[int, "_Rank"]) -> tuple[int, int]:
        """Return how far a rank was fed: up to which start of the run, and which step."""
        number, rank = numbered
        segment, step = rank.place
        return (0 if self._comparison is None else self._comparison.starts.number(number, segment)), step

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
            compared=comparison.is_answer,
            notes=comparison.notes(self._world_size),
        )


def _starts(segments: Sequence[Segment], growing: bool) -> list[Start]:
    """Return what is known of a rank's segments before their parts are read; to the last one they may still come."""
    return [
        Start(
            segment.header.first_step,
            segment.header.world_size,
            is_empty=not segment.part_files and not (growing and segment is segments[-1] and segment.end is None),
        )
        for segment in segments
    ]


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
                raise TraceError(f"{part.path}: {error}") from error

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
        return conclude(self._context, {name for (name, _), checks in asked if any(check.answered for check in checks)})

    def so_far(self) -> Report:
        """Return the report as if the segment that is being fed ended here, and leave all as it is. Raises TraceError."""
        self._context.judge.settle()
        context = self._context
        shared = (context.judge, context.rule, context.comparison, *context.segments)
        copied = copy.deepcopy(self, {id(each): each for each in shared})
        copied._conclude()
        return copied.report()
