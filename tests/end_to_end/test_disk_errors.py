"""An error of a call on a file of the run ends in one sentence, with the file and the system's words; some pass by themselves."""

import errno
import fcntl
import os
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.disk import at_once
from tests.support import QUICKSTART, SMALL, read_json, replace_attribute, train, train_well

TINY = (*SMALL, "--training.epochs=1", "--data.train_images=32", "--crosscheck.record", "--crosscheck.replay=false")


def refuses(call: str, name: str, number: int, times: int, rank: int) -> None:
    """Let this call fail so many times with this error, if it is of the file of this name."""
    del rank
    module = fcntl if call == "flock" else os
    work, left = getattr(module, call), [times]

    def failing(*arguments: Any, **others: Any) -> Any:
        first = arguments[0]
        file = str(Path(f"/proc/self/fd/{first}").readlink()) if isinstance(first, int) else str(first)
        if left[0] > 0 and name in file:
            left[0] -= 1
            raise OSError(number, os.strerror(number))
        return work(*arguments, **others)

    replace_attribute(module, call, failing)
    replace_attribute(time, "sleep", at_once)


def refuse_twice(rank: int) -> None:
    """Let every call that may pass by itself fail twice."""
    for call, name, number in CALLS:
        if number != errno.EIO:
            refuses(call, name, number, 2, rank)


CALLS = [
    ("replace", "metrics.jsonl", errno.EBUSY),
    ("replace", "summary.json", errno.ESTALE),
    ("fsync", "status.json", errno.EIO),
    ("flock", ".lock", errno.EIO),
    ("open", ".lock", errno.ENFILE),
    ("mkdir", "checkpoints", errno.ENOMEM),
    ("mkdir", "trace", errno.EIO),
    ("replace", "part-000001", errno.EBUSY),
]


@pytest.mark.parametrize(("call", "name", "number"), CALLS, ids=[f"{call} {name}" for call, name, _ in CALLS])
def test_one_that_stays_is_a_fault_that_may_be_tried_again(tmp_path: Path, call: str, name: str, number: int) -> None:
    plant, told = partial(refuses, call, name, number, 10**9), tmp_path / "told.json"
    arguments = [QUICKSTART, *TINY, "--output.dir", tmp_path / "run"]
    [result] = train(arguments, plant=plant, environment={"TWINSTEP_STATUS": str(told)})
    assert (result.code, result.err.count("\n")) == (1, 1), result
    assert result.err.startswith(f"fault: {tmp_path / 'run'}")
    assert name in result.err
    assert os.strerror(number) in result.err
    assert (read_json(told)["exit_code"], read_json(told)["retry"]) == (1, True)
    if name == "part-000001":  # one of them goes on, to save the time of the others
        assert train_well(tmp_path / "run", *TINY)["steps"] == 2


def test_those_that_pass_are_not_noticed(tmp_path: Path) -> None:
    assert train_well(tmp_path / "run", *TINY, plant=refuse_twice)["steps"] == 2
