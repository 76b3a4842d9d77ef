"""Decides how a start ended on one rank: its exit code, its message, and what status.json says of it."""

import time
from dataclasses import dataclass, replace
from pathlib import Path

from distrib.errors import EXIT_BAD_INPUT, EXIT_FAULT, BadInput, PeerLost, RunFault
from distrib.files import DISK_BROKEN, NEEDS_USER
from distrib.job.status import Status
from distrib.job.stop import Stopped
from distrib.text import print_error


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """One rank's exit code, and what it tells of it. Importing this must not import torch: see train.py."""

    code: int
    message: str = ""
    shown: bool = False  # the message was shown already
    reports: bool  # this rank writes the status and shows the message
    foreseen: bool = True  # False for an error that is raised again, so that its traceback is seen
    on_all_ranks: bool = True  # every rank ends this way, at this point
    step: int | None = None
    retry: bool = False  # the same command may well succeed
    to_replay: Path | None = None  # the run's folder, if its trace waits to be replayed by this rank
    error: Exception | None = None  # what ended the start

    def write(self, status: Status) -> None:
        """Write status.json, if this rank reports."""
        if self.reports:
            status.write(self.code, self.message, self.step, retry=self.retry)

    def show(self) -> None:
        """Print a message that was not shown yet. Ranks that do not report wait, so that a launcher lets the other print."""
        if not self.message or self.shown:
            return
        if self.reports:
            print_error(self.message)
        else:
            time.sleep(1.0)


def outcome_of(error: Exception, status: Status, *, reports: bool) -> Outcome:
    """Return how a start ends that this error ended.

    `reports` says whether this rank is the one to report what all ranks know alike. A disk that fails, and an error that
    nobody foresaw, are known to one rank alone, which reports them: the others only see that it is gone.
    """
    return replace(_outcome_of(error, status, reports=reports), error=error)


def _outcome_of(error: Exception, status: Status, *, reports: bool) -> Outcome:
    match error:
        case BadInput():
            return Outcome(code=EXIT_BAD_INPUT, message=f"bad input: {error}", reports=reports)
        case Stopped():
            return Outcome(
                code=error.code, message=str(error), shown=True, reports=reports, step=error.step, retry=True
            )
        case PeerLost():
            # Rank 0 may have written why it left.
            reports = error.reported_here and not status.is_written()
            return Outcome(code=EXIT_FAULT, message=f"fault: {error}", reports=reports, on_all_ranks=False, retry=True)
        case RunFault():
            return Outcome(code=EXIT_FAULT, message=f"fault: {error}", reports=reports)
        case OSError() if error.errno in NEEDS_USER:
            message = (
                f"bad input: {_where(error, status)} cannot be written ({error.strerror}): free space or choose another "
                "output.dir"
            )
            return Outcome(code=EXIT_BAD_INPUT, message=message, reports=True, on_all_ranks=False)
        case OSError() if error.errno in DISK_BROKEN:
            message = (
                f"fault: {_where(error, status)}: {error.strerror}: the disk or its server failed; the same command goes on from "
                "the newest checkpoint"
            )
            return Outcome(code=EXIT_FAULT, message=message, reports=True, on_all_ranks=False, retry=True)
        case OSError() if error.filename is not None:
            message = (
                f"fault: {error.filename}: {error.strerror}: the system refused it for a reason that nobody foresaw"
            )
            return Outcome(code=EXIT_FAULT, message=message, reports=True, on_all_ranks=False)
        case _:
            import torch  # not before a start met an error: see train.py

            return Outcome(
                code=EXIT_FAULT,
                message=f"{type(error).__name__}: {error}",
                reports=not status.is_written(),
                foreseen=False,
                on_all_ranks=False,
                # A device may do better the next time; too little memory and programs do not change.
                retry=isinstance(error, torch.AcceleratorError),
            )


def _where(error: OSError, status: Status) -> str:
    """Return the file of the error, or the run's folder in which it is, as far as that is known."""
    return str(error.filename or status.folder or "a file or stream that the system does not name")
