"""How a start ended on one rank: its exit code, its words, and what status.json says of it."""

import time
from dataclasses import dataclass
from pathlib import Path

import torch

from distrib.display import print_error
from distrib.errors import EXIT_BAD_INPUT, EXIT_FAULT
from distrib.files import DISK_BROKEN, NEEDS_USER
from distrib.job.status import Status


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    code: int
    problem: str = ""  # for standard error
    said: str = ""  # what was said already
    reports: bool  # rank 0, or the rank that alone knows
    together: bool = True  # every rank ends this way, at this point
    step: int | None = None
    retry: bool = False  # the same command may well succeed
    to_replay: Path | None = None  # the run's folder, if its trace waits to be replayed by this rank

    def write(self, status: Status) -> None:
        if self.reports:
            status.write(self.code, self.problem or self.said, self.step, retry=self.retry)

    def tell(self) -> int:
        """The problem, if any, from the one rank that reports; the others give it time to. The exit code."""
        if self.problem and self.reports:
            print_error(self.problem)
        elif self.problem:
            time.sleep(1.0)
        return self.code


def disk_outcome(error: OSError, folder: Path | None) -> Outcome | None:
    """None if the disk is not to blame; a connection that fails is an OSError, too.

    Said by whichever rank met it: the others only see that it is gone.
    """
    where = error.filename or folder
    if error.errno in NEEDS_USER:
        problem = f"bad input: {where} cannot be written ({error.strerror}): free space or choose another output.dir"
        return Outcome(code=EXIT_BAD_INPUT, problem=problem, reports=True, together=False)
    if error.errno in DISK_BROKEN:
        problem = f"fault: {where}: {error.strerror}: the disk or its server failed; the same command goes on from the newest checkpoint"
        return Outcome(code=EXIT_FAULT, problem=problem, reports=True, together=False, retry=True)
    return None


def is_transient(error: Exception) -> bool:
    """Whether the same command may well succeed: a device failed. Memory that was too small and programs do not change."""
    return isinstance(error, torch.AcceleratorError)
