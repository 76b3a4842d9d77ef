"""train.sbatch does what slurm/decide.py decides when a start has ended (test_decide.py has the whole table).

The batch script is the real one. Small scripts play srun, scontrol, sleep and python.
"""

import itertools
import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.support import ROOT

JOB = "17"
SRUN = """#!/bin/sh
[ ! -f says ] || cp says "$TWINSTEP_STATUS" 2>/dev/null
[ -z "$THEN" ] || eval "$THEN"
exit "$(cat code)"
"""
SCONTROL = """#!/bin/sh
case $* in
    *show*) echo "JobId=17 ${TASK}JobName=twinstep JobState=${STATE:-RUNNING} Requeue=1 Restarts=${RESTARTS:-0} BatchFlag=1" ;;
    requeue*) [ -z "$REFUSE" ] || { echo "$REFUSE" >&2 && exit 1; }; echo "$2" >requeued ;;
esac
"""
SLEEP = """#!/bin/sh
exec /bin/sleep 0.05  # between two looks at srun, which take a second in a job
"""
PYTHON = f"""#!/bin/sh
[ ! -e python-is-broken ] || exit 1
case $* in *"${{SIGNAL_AT:-nothing}}"*) kill -USR1 "$BATCH" ;; esac
exec {shlex.quote(sys.executable)} "$@"
"""


class Batch:
    """A project's root in which one job is started again and again."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for name in ("slurm", "distrib", "launch"):
            (root / name).symlink_to(ROOT / name)
        (root / "bin").mkdir()
        for name, text in (("srun", SRUN), ("scontrol", SCONTROL), ("sleep", SLEEP), ("python", PYTHON)):
            (root / "bin" / name).write_text(text)
            (root / "bin" / name).chmod(0o755)

    @property
    def lost(self) -> Path:
        """The file that counts lost starts."""
        return self.root / f"slurm-{JOB}.lost"

    def start(
        self,
        says: dict[str, Any] | None,
        code: int,
        script: str = "train",
        arguments: Sequence[str] = ("launch/recipes/quickstart.toml",),
        **variables: str,
    ) -> tuple[int, str, bool]:
        """Start the job. Return its exit code, its last line, and whether it was queued again.

        The ranks write the status `says`, and srun exits with `code`. The variables can change more: srun runs the commands of
        THEN, scontrol reports the state STATE, the ids TASK of an array and the count RESTARTS, and fails with the message
        REFUSE, and python sends USR1 to the process BATCH if its command holds SIGNAL_AT.
        """
        (self.root / "code").write_text(str(code))
        (self.root / "says").unlink(missing_ok=True)
        (self.root / "requeued").unlink(missing_ok=True)
        if says is not None:
            (self.root / "says").write_text(json.dumps(says))
        environment = {
            "PATH": f"{self.root}/bin:{os.defpath}",
            "SETUP": str(ROOT / "tests/slurm/__init__.py"),  # an empty file
            "MAX_RESTARTS": "2",
            "SLURM_JOB_ID": JOB,
            "SLURM_JOB_NUM_NODES": "1",
            **variables,
        }
        command = ["/bin/bash", f"slurm/{script}.sbatch", *arguments]
        result = subprocess.run(command, cwd=self.root, env=environment, capture_output=True, text=True, check=False)
        line = (result.stdout + result.stderr).rstrip().rpartition("\n")[2]
        return result.returncode, line.removeprefix("train.sbatch: "), (self.root / "requeued").exists()


@pytest.fixture
def batch(tmp_path: Path) -> Batch:
    return Batch(tmp_path)


def ended(code: int, step: int | None = None, *, retry: bool = False) -> dict[str, Any]:
    """Return the status that the ranks write."""
    return {"exit_code": code, "step": step, "retry": retry}


LOST = None
TASK = {"SLURM_ARRAY_JOB_ID": JOB, "SLURM_ARRAY_TASK_ID": "1", "TASK": f"ArrayJobId={JOB} ArrayTaskId=1 "}
"""The variables of a task of an array, and what scontrol says of it."""
BREAK_PYTHON = ": >python-is-broken"


@pytest.mark.parametrize(
    ("says", "code", "exits", "line", "again"),
    [
        (ended(0, 20), 0, 0, "done", False),
        (ended(2), 1, 2, "bad input, as said above", False),
        (ended(75, 12, retry=True), 1, 0, "stopped on request after step 12; requeued", True),
        (LOST, 2, 2, "bad input, as said above", False),
    ],
)
def test_one_end(batch: Batch, says: dict[str, Any] | None, code: int, exits: int, line: str, again: bool) -> None:
    assert batch.start(says, code) == (exits, line, again)
    assert batch.lost.exists() == again
    assert not (batch.root / f"slurm-{JOB}.status").exists()


def test_lost_starts_are_counted_until_a_stop_further_on(batch: Batch) -> None:
    counts: list[str] = []
    for says in (LOST, ended(75, 10), LOST, ended(75, 10)):
        assert batch.start(says, 1)[2]
        counts.append(batch.lost.read_text())
    assert counts == ["1 0\n", "0 10\n", "1 10\n", "2 10\n"]
    assert batch.start(LOST, 1) == (
        1, "all ranks were lost; not requeued: lost start 3 in a row, MAX_RESTARTS = 2", False
    )  # fmt: skip
    assert not list(batch.root.glob("slurm-*"))


def test_a_stop_without_an_answer(batch: Batch) -> None:
    line = "asked to stop, but no answer; the newest checkpoint counts; restart 1 of at most 2; requeued"
    assert batch.start(LOST, 1, THEN="kill -USR1 $PPID") == (0, line, True)


def test_a_setup_file_that_ends_at_errors_does_not_make_the_script_do_so(batch: Batch) -> None:
    (batch.root / "setup").write_text("set -e +o pipefail\n")
    _, line, again = batch.start(LOST, 1, THEN="kill -USR1 $PPID", SETUP="setup")
    assert (line.startswith("asked to stop, but no answer; "), again) == (True, True)


@pytest.mark.parametrize(
    ("script", "at"), [("train", "find_spec"), ("train", "setup"), ("sweep", "setup"), ("sweep", "sweep_run")]
)
def test_a_signal_before_the_ranks_are_started(batch: Batch, script: str, at: str) -> None:
    (batch.root / "setup").write_text("export BATCH=$$\n[[ $SIGNAL_AT != setup ]] || kill -USR1 $$\n")
    (batch.root / "runs").write_text("launch/recipes/quickstart.toml\n")
    arguments = ["runs" if script == "sweep" else "launch/recipes/quickstart.toml"]
    decided = batch.start(LOST, 1, script, arguments, **TASK, SETUP="setup", SIGNAL_AT=at, THEN=": >srun-was-started")
    assert decided == (0, "asked to stop before the ranks were started; restart 1 of at most 2; requeued", True)
    assert not (batch.root / "srun-was-started").exists()


def test_a_job_submitted_from_inside_a_task_of_an_array_is_not_that_task(batch: Batch) -> None:
    """sbatch hands on the variables of the job that it is called in."""
    others = {"SLURM_ARRAY_JOB_ID": "12", "SLURM_ARRAY_TASK_ID": "1", "SLURM_RESTART_COUNT": "9"}
    assert batch.start(ended(75, 3), 1, THEN='echo "$TWINSTEP_RUN_ID" >run-id', **others)[2]
    assert (batch.root / "run-id").read_text() == (batch.root / "requeued").read_text() == f"{JOB}\n"
    assert batch.start(LOST, 1, THEN=BREAK_PYTHON, **others)[2], "this job was not restarted nine times"
    (batch.root / "python-is-broken").unlink()
    (batch.root / "runs").write_text("launch/recipes/quickstart.toml\n")
    code, line, _ = batch.start(LOST, 1, "sweep", ["runs"], **others)
    assert (code, line.startswith("bad input: no SLURM_ARRAY_TASK_ID; ")) == (2, True)


def test_each_start_on_several_nodes_has_a_port_of_its_own(batch: Batch) -> None:
    """A program that holds the first port would be met again and again."""
    for restarts in ("0", "1"):
        several = {
            "SLURM_JOB_NUM_NODES": "2",
            "SLURM_JOB_NODELIST": "n[1-2]",
            "SLURM_RESTART_COUNT": restarts,
            "RESTARTS": restarts,
        }
        batch.start(LOST, 1, THEN='for word; do echo "$word" >>words; done', **several)
    words = (batch.root / "words").read_text().splitlines()
    assert [after for word, after in itertools.pairwise(words) if word == "--main_process_port"] == ["20017", "20114"]


@pytest.mark.parametrize(("says", "code"), [(LOST, 1), (ended(75, 3), 1)])
def test_a_count_that_cannot_be_kept_is_no_endless_loop(batch: Batch, says: dict[str, Any] | None, code: int) -> None:
    """The disk is full. Each start would count as the first."""
    batch.lost.mkdir()
    exits, line, again = batch.start(says, code)
    assert (exits, again) == (2, False)
    assert line.endswith(f"slurm-{JOB}.lost' cannot be written; not requeued: free space")


@pytest.mark.parametrize(
    ("text", "says"), [("starts[$(: >planted)] 0\n", LOST), ("0 starts[$(: >planted)]\n", ended(75, 3))]
)
def test_the_text_of_a_count_is_not_run(batch: Batch, text: str, says: dict[str, Any] | None) -> None:
    """Bash runs commands within a text that it takes for a number."""
    batch.lost.write_text(text)
    assert batch.start(says, 1)[2]
    assert not (batch.root / "planted").exists()


def test_the_text_of_a_status_is_not_run(batch: Batch) -> None:
    planted = ended(75) | {"step": "step[$(: >planted)]"}
    assert batch.start(planted, 1) == (0, "all ranks were lost; restart 1 of at most 2; requeued", True)
    assert not (batch.root / "planted").exists()


@pytest.mark.parametrize(
    ("code", "restarted", "exits", "more"),
    [
        (0, "0", 0, ""),
        (2, "0", 2, ""),
        (1, "1", 0, "; requeued"),
        (1, "2", 1, "; not requeued: restarted 2 time(s), MAX_RESTARTS = 2"),
    ],
)
def test_without_python_slurm_s_own_count_is_the_limit(
    batch: Batch, code: int, restarted: str, exits: int, more: str
) -> None:
    line = f"no decision: python cannot run slurm/decide.py any more; srun ended with {code}{more}"
    decided = batch.start(LOST, code, THEN=BREAK_PYTHON, SLURM_RESTART_COUNT=restarted, RESTARTS=restarted)
    assert decided == (exits, line, more == "; requeued")


def test_a_decision_is_the_one_of_the_start_of_the_job(batch: Batch) -> None:
    """A running job does not change its end when slurm/decide.py is edited or another version is checked out."""
    (batch.root / "slurm").unlink()
    shutil.copytree(ROOT / "slurm", batch.root / "slurm")
    assert batch.start(ended(75, 12), 1, THEN="echo 'edited(' >slurm/decide.py")[1] == (
        "stopped on request after step 12; requeued"
    )


def test_a_job_that_someone_else_ends_is_not_queued_again(batch: Batch) -> None:
    line = "stopped on request after step 3; SLURM is ending this job, and decides whether it runs again"
    assert batch.start(ended(75, 3), 1, STATE="COMPLETING") == (75, line, False)


def test_a_requeue_that_is_refused(batch: Batch) -> None:
    line = "stopped on request after step 3; not requeued (Requested operation not allowed): submit the same again to go on"
    assert batch.start(ended(75, 3), 1, REFUSE="Requested operation not allowed") == (75, line, False)


def test_a_task_of_a_sweep_goes_on_with_the_run_that_it_began(batch: Batch) -> None:
    """A line that is inserted meanwhile is another run: it must not continue this one's checkpoint."""
    file = batch.root / "runs"
    task = {**TASK, "THEN": 'for word; do echo "$word" >>trained; done'}

    def trained(says: dict[str, Any]) -> list[str]:
        (batch.root / "trained").unlink(missing_ok=True)
        assert batch.start(says, 1, "sweep", (file.name, "--training.epochs", "6"), **task)[0] == 0
        return (batch.root / "trained").read_text().splitlines()

    recipe = "launch/recipes/quickstart.toml"
    file.write_text(f"{recipe} --training.seed 5\n")
    first = trained(ended(75, 3))
    assert first[-6:] == ["--training.epochs", "6", "--training.seed", "5", "--output.dir", "none"]
    assert (batch.root / "requeued").read_text() == f"{JOB}_1\n"
    file.write_text(f"{recipe} --training.seed 4\n{recipe} --training.seed 5\n")
    assert trained(ended(75, 6)) == first
    file.unlink()
    assert trained(ended(0, 20)) == first
    assert not list(batch.root.glob("slurm-*"))
    file.write_text(f"{recipe} --training.seed 4\n")
    assert trained(ended(0, 20))[-3] == "4", "a new job takes the file as it is"


def test_a_job_that_ends_leaves_nothing_behind(batch: Batch) -> None:
    assert batch.start(ended(1, retry=True), 1)[2]
    assert batch.start(ended(0, 20), 1)[0] == 0
    assert not list(batch.root.glob("slurm-*"))
