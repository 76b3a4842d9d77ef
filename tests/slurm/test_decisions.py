"""What train.sbatch decides when a start has ended: done, again, or for good. srun and scontrol are played by scripts."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support import ROOT

JOB = "17"
SRUN = '#!/bin/sh\n[ ! -f says ] || cp says "$TWINSTEP_STATUS" 2>/dev/null\nexit "$(cat code)"\n'
SCONTROL = '#!/bin/sh\ncase $* in *show*) echo "JobId=17 JobState=RUNNING" ;; requeue*) echo >>requeued ;; esac\n'


class Batch:
    """A project's root, and a job that is started in it again and again."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for name in ("slurm", "distrib", "launch"):
            (root / name).symlink_to(ROOT / name)
        (root / "bin").mkdir()
        for name, text in (("srun", SRUN), ("scontrol", SCONTROL)):
            (root / "bin" / name).write_text(text)
            (root / "bin" / name).chmod(0o755)

    def start(self, says: dict[str, Any] | None, code: int, restarts: int = 2) -> tuple[int, str, bool]:
        """Exit code, last line and whether it is queued again, if the ranks say this and srun ends so."""
        (self.root / "code").write_text(str(code))
        (self.root / "says").unlink(missing_ok=True)
        (self.root / "requeued").unlink(missing_ok=True)
        if says is not None:
            (self.root / "says").write_text(json.dumps(says))
        environment = {
            "PATH": f"{self.root}/bin:{Path(sys.executable).parent}:{os.defpath}",
            "SETUP": str(ROOT / "tests/slurm/__init__.py"),  # an empty file
            "MAX_RESTARTS": str(restarts),
            "SLURM_JOB_ID": JOB,
            "SLURM_JOB_NUM_NODES": "1",
        }
        command = ["/bin/bash", "slurm/train.sbatch", "launch/recipes/quickstart.toml"]
        result = subprocess.run(command, cwd=self.root, env=environment, capture_output=True, text=True, check=False)
        line = (result.stdout + result.stderr).rstrip().rpartition("\n")[2]
        return result.returncode, line.removeprefix("train.sbatch: "), (self.root / "requeued").exists()


@pytest.fixture
def batch(tmp_path: Path) -> Batch:
    return Batch(tmp_path)


def ended(code: int, step: int | None = None, *, retry: bool = False) -> dict[str, Any]:
    return {"exit_code": code, "step": step, "retry": retry}


LOST, BAD_INPUT = None, ended(2)


@pytest.mark.parametrize(
    ("says", "code", "exits", "line", "again"),
    [
        (ended(0, 20), 0, 0, "done", False),
        (BAD_INPUT, 1, 2, "bad input, as said above", False),
        (ended(75, 12, retry=True), 1, 0, "stopped on request after step 12; requeued", True),
        (ended(1, retry=True), 1, 0, "fault; restart 1 of at most 2; requeued", True),
        (ended(1), 1, 1, "fault, as said above; the same would happen again", False),
        (LOST, 137, 0, "all ranks were lost; restart 1 of at most 2; requeued", True),
        (LOST, 0, 0, "done", False),
        (LOST, 2, 2, "bad input, as said above", False),  # the disk is full: they could not even say so
    ],
)
def test_one_end(batch: Batch, says: dict[str, Any] | None, code: int, exits: int, line: str, again: bool) -> None:
    assert batch.start(says, code) == (exits, line, again)


def test_faults_in_a_row_come_to_an_end(batch: Batch) -> None:
    for _ in range(2):
        assert batch.start(LOST, 1)[2]
    assert batch.start(LOST, 1) == (
        1, "all ranks were lost; not requeued: lost start 3 in a row, MAX_RESTARTS = 2", False
    )  # fmt: skip


def test_a_stop_further_on_starts_the_count_again(batch: Batch) -> None:
    for step in (10, 20):
        assert batch.start(ended(1, retry=True), 1)[2]
        assert batch.start(LOST, 1)[2]
        assert batch.start(ended(75, step), 1)[2]


@pytest.mark.parametrize("step", [None, 10])
def test_stops_that_get_nowhere_come_to_an_end(batch: Batch, step: int | None) -> None:
    """A time limit that is over before the first step of each start."""
    assert batch.start(ended(75, 10), 1)[2]
    where = "" if step is None else f" after step {step}"
    for number in (1, 2):
        line = f"stopped on request{where}, without a new step; restart {number} of at most 2; requeued"
        assert batch.start(ended(75, step), 1) == (0, line, True)
    code, line, again = batch.start(ended(75, step), 1)
    assert (code, again) == (75, False)
    assert line.endswith("; not requeued: lost start 3 in a row, MAX_RESTARTS = 2")


@pytest.mark.parametrize(("says", "code"), [(LOST, 1), (ended(1, retry=True), 1), (ended(75, 3), 1)])
def test_a_count_that_cannot_be_kept_is_no_endless_loop(batch: Batch, says: dict[str, Any] | None, code: int) -> None:
    """The disk is full: each start would take itself for the first."""
    (batch.root / f"slurm-{JOB}.lost").mkdir()
    exits, line, again = batch.start(says, code)
    assert (exits, again) == (2, False)
    assert line.endswith(f"slurm-{JOB}.lost' cannot be written; not requeued: free space")


def test_a_job_that_ends_leaves_nothing_behind(batch: Batch) -> None:
    for says in (ended(75, 3), ended(1, retry=True), ended(0, 20)):
        batch.start(says, 1)
    assert not list(batch.root.glob("slurm-*"))
