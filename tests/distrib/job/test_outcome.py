"""Tests how a start ends by each kind of error, and who reports it."""

import errno
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from distrib.errors import BadInput, PeerLost, RunFault
from distrib.job.outcome import Outcome, outcome_of
from distrib.job.status import Status
from distrib.job.stop import LAUNCHER_DIED, Stopped
from tests.support import ROOT, read_json

FULL = OSError(errno.ENOSPC, "No space left on device", "/disk/metrics.jsonl")
BROKEN = OSError(errno.EIO, "Input/output error", "/disk/metrics.jsonl")
BUSY = OSError(errno.EBUSY, "Device or resource busy", "/disk/summary.json")
STRANGE = OSError(errno.EINVAL, "Invalid argument", "/disk/summary.json")
REFUSED = ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused")

KNOWN_TO_ALL = [
    (BadInput("no such key"), 2, "bad input: no such key", False),
    (RunFault("the loss is nan"), 1, "fault: the loss is nan", False),
    (Stopped("SIGTERM", "after step 3", 3), 75, "stopped on request (SIGTERM) after step 3", True),
    (Stopped(LAUNCHER_DIED, "after step 3", 3), 1, "stopped because its launcher died after step 3", True),
]
KNOWN_TO_ONE = [
    (FULL, 2, "bad input: /disk/metrics.jsonl cannot be written (No space left on device)", False),
    (BROKEN, 1, "fault: /disk/metrics.jsonl: Input/output error", True),
    (BUSY, 1, "fault: /disk/summary.json: Device or resource busy", True),
    (STRANGE, 1, "fault: /disk/summary.json: Invalid argument", False),
    (REFUSED, 1, "ConnectionRefusedError: [Errno 111] Connection refused", False),
    (ZeroDivisionError("by zero"), 1, "ZeroDivisionError: by zero", False),
    (torch.AcceleratorError("device-side assert"), 1, "AcceleratorError: device-side assert", True),
]


@pytest.mark.parametrize(("error", "code", "message", "retry"), KNOWN_TO_ALL + KNOWN_TO_ONE, ids=repr)
def test_code_message_and_whether_to_try_again(
    error: Exception, code: int, message: str, retry: bool, tmp_path: Path
) -> None:
    status = Status({})
    status.folder = tmp_path
    outcome = outcome_of(error, status, reports=True)
    outcome.write(status)
    said = read_json(tmp_path / "status.json")
    assert (outcome.code, said["exit_code"], said["retry"]) == (code, code, retry)
    assert said["reason"].startswith(message)
    assert said["step"] == (3 if isinstance(error, Stopped) else None)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_no_file_is_called_none(number: int) -> None:
    message = outcome_of(OSError(number, "it refuses"), Status({}), reports=True).message
    assert "a file or stream that the system does not name" in message


@pytest.mark.parametrize("reports", [True, False])
@pytest.mark.parametrize("error", [error for error, *_ in KNOWN_TO_ALL], ids=repr)
def test_what_all_ranks_know_is_reported_by_the_one_that_is_asked_to(error: Exception, reports: bool) -> None:
    outcome = outcome_of(error, Status({}), reports=reports)
    assert (outcome.reports, outcome.on_all_ranks) == (reports, True)


@pytest.mark.parametrize("error", [error for error, *_ in KNOWN_TO_ONE], ids=repr)
def test_what_one_rank_knows_it_reports(error: Exception) -> None:
    outcome = outcome_of(error, Status({}), reports=False)
    assert (outcome.reports, outcome.on_all_ranks) == (True, False)
    assert outcome.foreseen == (error in (FULL, BROKEN, BUSY, STRANGE))


@pytest.mark.parametrize("reported_here", [True, False])
@pytest.mark.parametrize("written", [True, False])
def test_a_lost_peer_is_reported_once(reported_here: bool, written: bool, tmp_path: Path) -> None:
    """By one of those left, unless the lost one has written why it left."""
    status = Status({})
    status.folder = tmp_path
    if written:
        status.write(2, "the disk is full")
    outcome = outcome_of(PeerLost("rank 1 stopped answering", reported_here=reported_here), status, reports=True)
    assert (outcome.code, outcome.retry, outcome.on_all_ranks) == (1, True, False)
    assert outcome.reports == (reported_here and not written)


def test_only_the_rank_that_reports_shows_the_message(capsys: pytest.CaptureFixture[str]) -> None:
    for shown in (True, False):
        for reports in (True, False):
            Outcome(code=1, message="fault: it broke", shown=shown, reports=reports).show()
            assert capsys.readouterr().err == ("fault: it broke\n" if reports and not shown else "")


def test_the_command_hears_requests_before_torch_is_imported() -> None:
    script = "import sys, distrib.train; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=False).returncode == 0
