"""Replaying a trace while it grows, until the first mismatch or until it is closed. Never imports torch."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from crosscheck.errors import TraceError
from crosscheck.replayer import Replaying, judging
from crosscheck.report.report import Report
from crosscheck.report.verdict import Verdict
from crosscheck.trace.reader import Segment, may_begin, open_ranks, segment_folders

T = TypeVar("T")

_SHARE = 0.1  # of the time goes to reports on a trace that goes on: what one costs grows with the number of steps


class NothingCame(Exception):
    """Nothing new came for too long; the message says what was waited for. `report` is on what there is, if there is anything."""

    def __init__(self, message: str, report: Report | None) -> None:
        super().__init__(message)
        self.report = report


@dataclass(kw_only=True)
class Follower:
    """Follows one trace."""

    path: Path
    tell: Callable[[str], None]
    """Called with a sentence whenever there is something else to wait for."""
    every: float
    """Seconds between two looks at the folder."""
    timeout: float | None
    """Seconds to wait for something new; None is for ever."""
    linger: float
    """Seconds to wait for another segment once the trace is closed."""
    _new_at: float = field(default_factory=time.monotonic)
    _told: str = ""

    def follow(self) -> Report:
        """Return the report on the first mismatch, or on the whole trace once it is closed.

        A run that is started again adds a segment. The replay then starts again with all of them, because the way a run goes
        on is judged by what its earlier segments left.

        Raises:
            TraceError: Not a trace, or a damaged one.
            UnsupportedOptimizer: There is no rule for what is recorded.
            NothingCame: Nothing new came for `timeout` seconds.
        """
        while not segment_folders(self.path) and may_begin(self.path):
            self._wait(f"{self.path} to begin")
        with judging() as worker:
            while True:
                begun = segment_folders(self.path)
                ranks = _look(lambda: open_ranks(self.path), self.every)
                report = self._replay(
                    Replaying(ranks, worker, growing=True), [segments[-1] for segments in ranks.values()], begun
                )
                if report is not None:
                    return report
                self._new_at = time.monotonic()
                self._say(
                    f"{self.path} has a new segment: a run or a rank of it was started, and the replay starts again"
                )

    def _replay(self, replaying: Replaying, last: Sequence[Segment], begun: Sequence[Path]) -> Report | None:
        """Return the report as `follow` does, or None when there are more segments than those that are `begun`.

        `last`: the last segment of each rank, which may grow.
        """
        reported, cost, since = -1, 0.0, time.monotonic()  # the last step that was reported on, and what that took when
        closed_at: float | None = None
        while True:
            while replaying.advance():
                self._new_at = time.monotonic()
                if replaying.has_findings:
                    return replaying.so_far()
            now = time.monotonic()
            open_ones = [segment for segment in last if segment.end is None]
            growing = min(open_ones, key=lambda segment: len(segment.part_files), default=None)
            if growing is None:
                closed_at = now if closed_at is None else closed_at
                if now - closed_at >= self.linger:
                    replaying.end()
                    return replaying.report()
            elif replaying.last_step > reported and cost <= _SHARE * (now - since):
                report, reported = replaying.so_far(), replaying.last_step
                if report.verdict is Verdict.MISMATCH:
                    return report
                since = time.monotonic()
                cost = since - now
            so_far = f"no mismatch up to step {replaying.last_step}"
            if growing is not None:
                part = f"part {len(growing.part_files) + 1} of {growing.folder.relative_to(self.path)}"
                self._wait(f"{part}; {so_far}", replaying)
            else:
                self._say(f"the trace is closed; waiting {self.linger:g} s for another segment; {so_far}")
                time.sleep(self.every)
            if segment_folders(self.path) != begun:
                return None
            for segment in last:
                _look(segment.refresh, self.every)

    def _wait(self, what: str, replaying: Replaying | None = None) -> None:
        """Wait a moment for something. Raises NothingCame."""
        self._say(f"waiting for {what}")
        if self.timeout is not None and time.monotonic() - self._new_at > self.timeout:
            message = f"nothing new came for {self.timeout:g} s, while waiting for {what}"
            raise NothingCame(message, None if replaying is None else replaying.so_far())
        time.sleep(self.every)

    def _say(self, what: str) -> None:
        if what != self._told:
            self._told = what
            self.tell(what)


def _look(at: Callable[[], T], every: float) -> T:
    """Return what is seen in the folder. Raises TraceError if it is wrong a moment later as well.

    A list of a folder's files is no picture of one moment: the last part may be missing in it although `end.json`, which was
    written later, is there.
    """
    try:
        return at()
    except TraceError:
        time.sleep(every)
        return at()
