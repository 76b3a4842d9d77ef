"""Decides what slurm/train.sbatch does when a start has ended: it ends the job, or it queues the job again.

    python slurm/decide.py STATUS LOST SRUN STOP MAX_RESTARTS

STATUS is the file in which the ranks said how the start ended, if they could. LOST is the file with the count of lost
starts. SRUN is the exit code of srun, and empty if the job was asked to stop before srun was started. STOP is empty unless the
job was asked to stop. The answer is three lines: `finish`, the exit code of the job, and the reason; or `again`, the text that
LOST must hold from now on, and the reason.

Needs the standard library only. The batch script runs this file's text with `python -c`.
"""

import json
import re
import sys
from pathlib import Path
from typing import NamedTuple

DONE, FAULT, BAD_INPUT, STOPPED = 0, 1, 2, 75
"""The exit codes of `distrib.errors`, which this file cannot import."""

LONGEST_FILE = 1_000_000
"""How many characters of a file are read at most; the trainer's own files are far shorter."""


class Status(NamedTuple):
    """How the ranks say that a start ended."""

    exit_code: int
    step: int | None
    retry: bool
    """Whether another start may succeed."""


class Lost(NamedTuple):
    """How many starts in a row were lost, and the furthest step at which one was stopped before them."""

    starts: int = 0
    furthest: int = 0


class Finish(NamedTuple):
    """The job ends with this exit code."""

    code: int
    reason: str


class QueueAgain(NamedTuple):
    """The job is queued again, once LOST holds this count."""

    lost: Lost
    reason: str


def decide(
    status: Status | None, srun: int | None, *, stop_requested: bool, lost: Lost, max_restarts: int
) -> Finish | QueueAgain:
    """Return what happens to the job.

    `status` is None if the ranks did not say how the start ended, `srun` if it was not started.
    """

    def again_after_a_loss(code: int, reason: str) -> Finish | QueueAgain:
        count = lost.starts + 1
        if count > max_restarts:
            return Finish(code, f"{reason}; not requeued: lost start {count} in a row, MAX_RESTARTS = {max_restarts}")
        return QueueAgain(Lost(count, lost.furthest), f"{reason}; restart {count} of at most {max_restarts}")

    code = srun if srun in (DONE, BAD_INPUT) else None
    at, step, retry = "", 0, False
    if status is not None and status.exit_code in (DONE, FAULT, BAD_INPUT, STOPPED):
        code, retry = status.exit_code, status.retry
        if status.step is not None:
            at, step = f" after step {status.step}", status.step
    if code == DONE:
        return Finish(DONE, "done")
    if code == BAD_INPUT:
        return Finish(BAD_INPUT, "bad input, as said above")
    if code == STOPPED:
        if step > lost.furthest:
            return QueueAgain(Lost(0, step), f"stopped on request{at}")
        # If the time limit is too short for a single step, every start is stopped where it began.
        return again_after_a_loss(STOPPED, f"stopped on request{at}, without a new step")
    if code == FAULT:
        if retry:
            return again_after_a_loss(FAULT, f"fault{at}")
        return Finish(FAULT, f"fault{at}, as said above; the same would happen again")
    if srun is None:
        return again_after_a_loss(STOPPED, "asked to stop before the ranks were started")
    if stop_requested:
        return again_after_a_loss(STOPPED, "asked to stop, but no answer; the newest checkpoint counts")
    return again_after_a_loss(FAULT, "all ranks were lost")


def read_status(path: Path) -> Status | None:
    """Return what the file says, or None if there is no such file or it does not hold a status."""
    try:
        said = json.loads(_read(path))
        code, step, retry = said["exit_code"], said["step"], said.get("retry")
    except (ValueError, RecursionError, TypeError, KeyError, AttributeError):
        return None
    if type(code) is not int or type(step) not in (int, type(None)):  # isinstance would accept True
        return None
    return Status(code, step, retry is True)


def read_lost(path: Path) -> Lost:
    """Return what the file says. A file that is missing or holds anything but two whole numbers means no lost starts."""
    found = re.fullmatch(r"([0-9]{1,18}) ([0-9]{1,18})\n?", _read(path))
    return Lost() if found is None else Lost(*map(int, found.groups()))


def _read(path: Path) -> str:
    """Return the text of a plain file, or an empty text if it cannot be read."""
    try:
        if not path.is_file():  # opening a pipe would wait for a writer
            return ""
        with path.open(encoding="utf-8", errors="replace") as file:
            return file.read(LONGEST_FILE)
    except OSError:
        return ""


def main(status: str, lost: str, srun: str, stop: str, max_restarts: str) -> None:
    """Print the decision, in the three lines that the batch script reads."""
    decision = decide(
        read_status(Path(status)),
        int(srun) if srun else None,
        stop_requested=bool(stop),
        lost=read_lost(Path(lost)),
        max_restarts=int(max_restarts),
    )
    if isinstance(decision, Finish):
        print("finish", decision.code, decision.reason, sep="\n")
    else:
        print("again", f"{decision.lost.starts} {decision.lost.furthest}", decision.reason, sep="\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
