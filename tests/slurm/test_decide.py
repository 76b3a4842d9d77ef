"""Tests the decision at the end of a start, whether the job ends or is queued again.

These tests call the function; test_decisions.py runs the script.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distrib import errors
from slurm import decide as decisions
from slurm.decide import Finish, Lost, QueueAgain, Status, decide, read_lost, read_status
from tests.support import ROOT

NOT_SAID = None  # the ranks were lost, or could not write the status
NONE_LOST = Lost()
FAULT, FAULT_TO_RETRY = Status(1, None, retry=False), Status(1, None, retry=True)


def stopped(step: int | None) -> Status:
    return Status(75, step, retry=True)


def decided(
    status: Status | None, srun: int | None = 1, *, stop: bool = False, lost: Lost = NONE_LOST, restarts: int = 2
) -> Finish | QueueAgain:
    return decide(status, srun, stop_requested=stop, lost=lost, max_restarts=restarts)


def starts(*ends: Status | None, restarts: int = 2) -> list[Finish | QueueAgain]:
    """Return the decision at the end of each start of a job, until one ends the job."""
    lost, found = Lost(), list[Finish | QueueAgain]()
    for status in ends:
        decision = decided(status, lost=lost, restarts=restarts)
        found.append(decision)
        if isinstance(decision, Finish):
            break
        lost = decision.lost
    return found


@pytest.mark.parametrize(
    ("status", "srun", "decision"),
    [
        (Status(0, 20, retry=False), 0, Finish(0, "done")),
        (Status(0, 20, retry=False), 137, Finish(0, "done")),  # srun was killed while it waited for a lost node
        (Status(2, None, retry=False), 1, Finish(2, "bad input, as said above")),
        (stopped(12), 1, QueueAgain(Lost(0, 12), "stopped on request after step 12")),
        (FAULT_TO_RETRY, 1, QueueAgain(Lost(1, 0), "fault; restart 1 of at most 2")),
        (Status(1, 7, retry=True), 1, QueueAgain(Lost(1, 0), "fault after step 7; restart 1 of at most 2")),
        (FAULT, 1, Finish(1, "fault, as said above; the same would happen again")),
        (Status(1, 7, retry=False), 1, Finish(1, "fault after step 7, as said above; the same would happen again")),
        (NOT_SAID, 137, QueueAgain(Lost(1, 0), "all ranks were lost; restart 1 of at most 2")),
        (NOT_SAID, 0, Finish(0, "done")),
        (NOT_SAID, 2, Finish(2, "bad input, as said above")),  # the disk was too full for the ranks to write the status
        (NOT_SAID, None, QueueAgain(Lost(1, 0), "asked to stop before the ranks were started; restart 1 of at most 2")),
        (Status(130, 4, retry=False), 1, QueueAgain(Lost(1, 0), "all ranks were lost; restart 1 of at most 2")),
    ],
)
def test_one_end(status: Status | None, srun: int | None, decision: Finish | QueueAgain) -> None:
    assert decided(status, srun) == decision


def test_a_stop_without_an_answer_is_a_lost_start() -> None:
    reason = "asked to stop, but no answer; the newest checkpoint counts"
    assert decided(NOT_SAID, stop=True) == QueueAgain(Lost(1, 0), f"{reason}; restart 1 of at most 2")
    last = decided(NOT_SAID, stop=True, lost=Lost(2, 10))
    assert last == Finish(75, f"{reason}; not requeued: lost start 3 in a row, MAX_RESTARTS = 2")


def test_faults_in_a_row_come_to_an_end() -> None:
    *again, last = starts(NOT_SAID, FAULT_TO_RETRY, NOT_SAID)
    assert [type(decision) for decision in again] == [QueueAgain, QueueAgain]
    assert last == Finish(1, "all ranks were lost; not requeued: lost start 3 in a row, MAX_RESTARTS = 2")


def test_a_stop_further_on_starts_the_count_again() -> None:
    ends = [end for step in (10, 20) for end in (FAULT_TO_RETRY, NOT_SAID, stopped(step))]
    assert [type(decision) for decision in starts(*ends)] == [QueueAgain] * 6


@pytest.mark.parametrize("step", [None, 10])
def test_stops_that_get_nowhere_come_to_an_end(step: int | None) -> None:
    """The time limit comes before the first step of each start."""
    _, *again, last = starts(stopped(10), *[stopped(step)] * 3)
    where = "" if step is None else f" after step {step}"
    reason = f"stopped on request{where}, without a new step"
    assert again == [QueueAgain(Lost(n, 10), f"{reason}; restart {n} of at most 2") for n in (1, 2)]
    assert last == Finish(75, f"{reason}; not requeued: lost start 3 in a row, MAX_RESTARTS = 2")


ends = st.none() | st.builds(Status, st.sampled_from([0, 1, 2, 75, 130]), st.none() | st.integers(-1, 3), st.booleans())


@given(st.lists(ends, min_size=12, max_size=12), st.integers(0, 2))
def test_no_job_starts_for_ever(said: list[Status | None], restarts: int) -> None:
    """The job has three steps, so at most three stops get further. Lost starts may come before, between and after these."""
    decisions = starts(*said, restarts=restarts)
    assert isinstance(decisions[-1], Finish)
    assert len(decisions) <= 4 * restarts + 4


@pytest.mark.parametrize("code", [0, 1, 2, 75, 130, None])
def test_every_reason_is_one_line(code: int | None) -> None:
    """The batch script reads the reason as one line."""
    status = None if code is None else Status(code, 3, retry=True)
    assert "\n" not in decided(status).reason


def test_a_status_is_what_the_trainer_writes(tmp_path: Path) -> None:
    file = tmp_path / "status"
    file.write_text(json.dumps({"exit_code": 75, "reason": "asked", "step": 12, "retry": True, "launcher": "host 1"}))
    assert read_status(file) == stopped(12)
    file.write_text('{"exit_code": 1, "step": null}')
    assert read_status(file) == FAULT


@pytest.mark.parametrize(
    "text",
    [
        "", "{", "null", "[]", "7", '"exit_code"', "{}", '{"exit_code": 0}', '{"exit_code": null, "step": 3}',
        '{"exit_code": "0", "step": 3}', '{"exit_code": true, "step": 3}', '{"exit_code": 75.0, "step": 3}',
        '{"exit_code": 75, "step": "a[$(touch it)]"}', '{"exit_code": 75, "step": true}', '{"exit_code": 75, "step": 1e9}',
        "[" * 100_000, '{"exit_code": 75, "step": ' + "9" * 5000 + "}", "\0", '{"exit_code": 0, "step": 3',
    ],
)  # fmt: skip
def test_a_status_that_is_odd_says_nothing(text: str, tmp_path: Path) -> None:
    file = tmp_path / "status"
    file.write_text(text)
    assert read_status(file) is None


@pytest.mark.parametrize(
    ("text", "lost"), [("0 12\n", Lost(0, 12)), ("3 0", Lost(3, 0)), ("12 345678901\n", Lost(12, 345678901))]
)
def test_the_count_of_lost_starts(text: str, lost: Lost, tmp_path: Path) -> None:
    file = tmp_path / "lost"
    file.write_text(text)
    assert read_lost(file) == lost


@pytest.mark.parametrize(
    "text", ["", "\n", "3", "3 4 5", "-3 0", "1.5 0", "a[$(touch it)] 0", "0x10 0", "٣ 0", "9" * 5000 + " 0", "3 0\n3 0\n", "\0"]
)  # fmt: skip
def test_a_count_that_is_odd_is_no_lost_start(text: str, tmp_path: Path) -> None:
    """The next count that is written is whole again."""
    file = tmp_path / "lost"
    file.write_text(text)
    assert read_lost(file) == Lost()


def test_files_that_are_no_files_are_not_waited_for(tmp_path: Path) -> None:
    pipe, folder, zeros = (tmp_path / name for name in ("pipe", "folder", "zeros"))
    os.mkfifo(pipe)
    folder.mkdir()
    zeros.symlink_to("/dev/zero")
    for path in (pipe, folder, zeros, tmp_path / "none", folder / "none" / "none", pipe / "none"):
        assert (read_status(path), read_lost(path)) == (None, Lost())


def test_exit_codes_are_the_trainer_s() -> None:
    here = (decisions.DONE, decisions.FAULT, decisions.BAD_INPUT, decisions.STOPPED)
    assert here == (errors.EXIT_DONE, errors.EXIT_FAULT, errors.EXIT_BAD_INPUT, errors.EXIT_STOPPED)


@pytest.mark.parametrize(
    ("stop", "restarts", "lines"),
    [
        ("", "2", ["again", "2 9", "all ranks were lost; restart 2 of at most 2"]),
        ("95", "1", ["finish", "75", "asked to stop, but no answer; the newest checkpoint counts; "
                     "not requeued: lost start 2 in a row, MAX_RESTARTS = 1"]),
    ],
)  # fmt: skip
def test_the_program_needs_no_installed_package(stop: str, restarts: str, lines: list[str], tmp_path: Path) -> None:
    """Its text is run as the batch script runs it, by a Python that has the standard library only."""
    lost = tmp_path / "lost"
    lost.write_text("1 9\n")
    command = [sys.executable, "-I", "-S", "-c", (ROOT / "slurm" / "decide.py").read_text()]
    result = subprocess.run(
        [*command, tmp_path / "none", lost, "137", stop, restarts], capture_output=True, text=True, check=True
    )
    assert (result.stdout.splitlines(), result.stderr) == (lines, "")
