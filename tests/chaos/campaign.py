"""Plays the batch system: it starts the job, waits, reads the status and starts again, with faults in between."""

import signal
import time
from collections.abc import Callable, Sequence

from tests.chaos import invariants, record
from tests.chaos.faults import KINDS, LIMIT_SECONDS, Struck
from tests.chaos.plan import Fault, Moment
from tests.chaos.report import Line
from tests.chaos.world import Job, Process, Start, Violation
from tests.disk import Disk
from tests.support import wait_until

_REPLAY_SECONDS = 1.5  # faults strike within this time of a replay, which takes longer
_AT_MOST_SECONDS = 3600.0  # a start without a fault may take as long
_OTHERS_SECONDS = 5.0  # during start-up, nodes have as long to notice by themselves that another is gone


class Campaign:
    """A run under faults, with what is known about it from outside."""

    def __init__(self, job: Job, disk: Disk, start_up_seconds: float = 0.0) -> None:
        """`start_up_seconds` is how long a start-up takes. `finish` measures it; faults strike after a share of it."""
        self.job, self.disk, self.start_up_seconds = job, disk, start_up_seconds
        self.starts = 0
        self.steps = 0
        """How many steps all starts together have trained."""
        self._damaged: set[int] = set()  # inodes of checkpoints that a fault has damaged

    def finish(self) -> None:
        """Start once, without a fault, and wait for a good end. Raises Violation."""
        start, expected = self._start()
        wait_until(lambda: start.trains() or not start.processes(), _AT_MOST_SECONDS)
        self.start_up_seconds = time.monotonic() - start.since
        wait_until(lambda: not start.processes(), _AT_MOST_SECONDS, every=0.2)
        invariants.gone(start.processes(), _AT_MOST_SECONDS)
        self._look(start, expected)
        if start.word().state != "done":
            raise Violation(f"{start.name}, without a fault, ended as {start.word()}: {start.word().reason}")

    def disturbed(self, faults: Sequence[Fault], say: Callable[[Line], None]) -> None:
        """Start once for each fault and report the line of each. Raises Violation."""
        for fault in faults:
            try:
                say(self._one(fault))
            except Violation as broken:
                where = f"fault {fault.number} ({fault.kind}, {fault.moment}, start {self.starts})"
                raise Violation(f"{where}: {broken}") from None

    def _one(self, fault: Fault) -> Line:
        """Start, strike, wait for the end and check it. Return the line of the report. Raises Violation."""
        kind = KINDS[fault.kind]
        first, expected = self._start()
        self._await(first, fault.moment, expected)
        trained = first.trains()
        struck = kind.strike(first, fault, self.disk)
        since = time.monotonic()
        start = struck.start
        self._await_end(start, struck, trained=trained)
        seconds = time.monotonic() - since
        self.disk.relieve()
        invariants.ended_as_it_may(start.word(), kind.endings if trained else kind.early)
        reached = self._look(start, expected)
        if start.trains() and start.word().state == "stopped":
            invariants.nothing_lost(self.job.folder, self._damaged)
        survived = 0 < len(struck.dead) < self.job.world_size
        if trained and survived and fault.moment.phase != "replay":
            invariants.death_is_named(start.output(), struck.dead)
        victim = struck.victim
        if kind.aftermath is not None:
            self._damaged.add(record.checkpoints(self.job.folder)[0].inode)
            victim = kind.aftermath(self.job.folder, fault.random())
        return Line(fault, start.name, victim, reached, str(start.word()), seconds)

    def _start(self) -> tuple[Start, int]:
        """Start the job again. Return the start, and the step from which it has to continue."""
        self.starts += 1
        expected = invariants.newest_valid(self.job.folder, self._damaged)
        return self.job.start(f"start-{self.starts:03}"), expected

    def _await(self, start: Start, moment: Moment, resumed: int) -> None:
        """Wait until the fault may strike. Raises Violation if the start ends before."""

        def reached() -> bool:
            match moment.phase:
                case "launch":
                    return True
                case "start-up":
                    return time.monotonic() - start.since >= moment.share * self.start_up_seconds
                case "replay":
                    return any(process.replays for process in start.processes())
                case _:
                    return start.trains() and record.last_step(self.job.folder) >= resumed + moment.steps

        def over() -> bool:
            return all(launcher.poll() is not None for launcher in start.launchers)

        if not wait_until(lambda: reached() or over(), _AT_MOST_SECONDS, every=0.02):
            raise Violation(f"{start.name} came to no {moment.phase}")
        if moment.phase == "checkpoint":
            wait_until(lambda: start.saves() or over(), LIMIT_SECONDS, every=0.0005)
        elif moment.phase == "replay":
            time.sleep(moment.share * _REPLAY_SECONDS)
        if over():
            raise Violation(f"{start.name} ended before its fault: {start.word()} {start.word().reason}")

    def _await_end(self, start: Start, struck: Struck, *, trained: bool) -> None:
        """Wait until no process of the start is left. Raises Violation if some stay.

        The processes have to end by themselves, except in two cases that are left to the batch system, as srun does with
        --kill-on-bad-exit: it ends nodes that still wait during start-up for a node that is gone, and the node on which a
        process hangs.
        """
        if (hung := struck.hung) is not None:

            def others() -> list[Process]:
                return [
                    process
                    for process in start.processes()
                    if process != hung and not (process.node == hung.node and process.launches)
                ]

            wait_until(lambda: not others(), LIMIT_SECONDS)
            invariants.gone(others(), LIMIT_SECONDS)
            start.cut_power(hung.node)
        elif not trained:
            wait_until(lambda: any(launcher.poll() is not None for launcher in start.launchers), LIMIT_SECONDS)
            if not wait_until(lambda: not start.processes(), _OTHERS_SECONDS):
                for process in start.processes():
                    if process.launches:
                        process.send(signal.SIGTERM)
        wait_until(lambda: not start.processes(), LIMIT_SECONDS)
        invariants.gone(start.processes(), LIMIT_SECONDS)

    def _look(self, start: Start, expected: int) -> int:
        """Check what must hold after every start, and return its last step, or 0 if it did not train."""
        folder, trained = self.job.folder, start.trains()
        invariants.files_are_whole(folder, self._damaged)
        newer = [
            saved.path.name
            for saved in record.checkpoints(folder)
            if saved.inode in self._damaged and saved.step > expected
        ]
        invariants.resumed_from(start.output(), expected, newer, trained=trained)
        if not trained:
            return 0
        invariants.no_more_lost_than_the_interval(folder, self._damaged)
        self.steps += record.last_step(folder) - expected
        return record.last_step(folder)
