"""status.json, and the copy for the batch script of this one start."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from distrib.errors import BadInput
from distrib.job.status import Status
from tests.support import QUICKSTART, ROOT, SMALL, read_json, start, train, wait_for


@pytest.mark.parametrize(
    ("code", "state", "retry"), [(0, "done", False), (75, "stopped", True), (1, "failed", True), (2, "failed", False)]
)
def test_what_it_says(tmp_path: Path, code: int, state: str, retry: bool) -> None:
    status = Status({})
    status.folder = tmp_path
    status.begin(tmp_path)
    assert not status.is_written()
    assert read_json(tmp_path / "status.json")["state"] == "running"
    status.write(code, "why", 7, retry=retry)
    assert status.is_written()
    assert read_json(tmp_path / "status.json") == {
        "state": state, "exit_code": code, "reason": "why", "step": 7, "retry": retry,
        "launcher": f"{socket.gethostname()} {os.getppid()}",
    }  # fmt: skip


def test_a_folder_that_is_gone_hides_no_message(tmp_path: Path) -> None:
    status = Status({"TWINSTEP_STATUS": str(tmp_path / "also")})
    status.folder = tmp_path / "gone"
    assert not status.is_written()
    status.write(1, "the disk broke")
    assert read_json(tmp_path / "also")["reason"] == "the disk broke"


@pytest.mark.parametrize(
    ("rank", "world_size", "reports"),
    [
        (None, None, True),
        ("0", "4", True),
        ("3", "4", False),
        ("3", "four", False),
        ("3", None, True),
        ("3", "1", True),
    ],
)
def test_who_reports(rank: str | None, world_size: str | None, reports: bool) -> None:
    """A process that is alone does, also if its rank is left over from another program."""
    numbers = {"RANK": rank, "WORLD_SIZE": world_size}
    assert Status({name: number for name, number in numbers.items() if number is not None}).reports is reports


def test_a_recipe_that_is_not_there_is_in_the_copy(tmp_path: Path) -> None:
    [result] = train([tmp_path / "no.toml"], environment={"TWINSTEP_STATUS": str(tmp_path / "status")})
    status = read_json(tmp_path / "status")
    assert (result.code, status["exit_code"], status["retry"]) == (2, 2, False)
    assert "no.toml" in status["reason"]


def test_a_second_start_leaves_the_first_ones_status_alone(tmp_path: Path) -> None:
    folder, copy = tmp_path / "run", tmp_path / "copy"
    first = start([QUICKSTART, *SMALL, "--training.epochs=500", "--output.dir", folder])
    wait_for(folder / "metrics.jsonl", '"kind": "epoch"')
    [second] = train([QUICKSTART, *SMALL, "--output.dir", folder], environment={"TWINSTEP_STATUS": str(copy)})
    assert second.code == 2
    assert f"{folder} is in use by another run (process {first.processes[0].pid}" in second.err
    assert read_json(folder / "status.json")["state"] == "running"
    assert read_json(copy)["exit_code"] == 2
    first.processes[0].kill()
    first.wait()
    third = start([QUICKSTART, *SMALL, "--training.epochs=500", "--output.dir", folder])
    third.wait_for_output("continuing from")
    third.send(0, signal.SIGTERM)
    assert third.wait()[0].code == 75


def test_what_rank_0_said_is_not_overwritten_by_those_it_left_behind(tmp_path: Path) -> None:
    """A disk that is full is no lost peer: starting again would not help."""
    command = [QUICKSTART, *SMALL, "--training.epochs=200", "--output.dir", tmp_path]
    results = train(command, world_size=2, file_limit=200_000)
    assert [result.code for result in results] == [2, 2], results
    status = read_json(tmp_path / "status.json")
    assert (status["exit_code"], status["retry"]) == (2, False)


def test_a_status_that_fits_on_another_disk_only_counts(tmp_path: Path) -> None:
    """The run's folder is full: what rank 0 said is in the copy alone."""
    environment = {"TWINSTEP_STATUS": str(tmp_path / "copy")}
    status, survivor = Status(environment), Status(environment | {"RANK": "1"})
    status.folder = survivor.folder = tmp_path / "full"
    assert not survivor.is_written()
    status.write(2, "the disk is full")
    assert survivor.is_written()


def test_a_new_start_forgets_what_the_copy_said(tmp_path: Path) -> None:
    status = Status({"TWINSTEP_STATUS": str(tmp_path / "copy")})
    status.write(1, "rank 1 stopped answering")
    status.begin(tmp_path)
    assert not (tmp_path / "copy").exists()


def test_a_restart_by_the_same_launcher_leaves_what_it_left_for_good(tmp_path: Path) -> None:
    first, again = Status({}), Status({"TORCHELASTIC_RESTART_COUNT": "1"})
    first.folder = tmp_path
    for code, for_good in ((75, True), (2, True), (1, False), (0, False)):
        first.write(code, "why")
        assert first.final_status(tmp_path) is None
        assert (again.final_status(tmp_path) is not None) is for_good
    first.write(75, "yesterday, by another launcher")
    text = (tmp_path / "status.json").read_text()
    (tmp_path / "status.json").write_text(text.replace(f" {os.getppid()}", " 1"))
    assert again.final_status(tmp_path) is None


@pytest.mark.parametrize(
    ("code", "works", "state"), [(2, False, "done"), (75, False, "done"), (2, True, "failed"), (1, False, "failed")]
)
def test_a_complete_run_stays_done_when_a_start_is_refused(tmp_path: Path, code: int, works: bool, state: str) -> None:
    first, second = Status({}), Status({"TWINSTEP_STATUS": str(tmp_path / "copy")})
    first.folder = second.folder = tmp_path
    first.write(0, step=20)
    before = read_json(tmp_path / "status.json")
    second.begin(tmp_path)
    second.works = works
    second.write(code, "why")
    assert read_json(tmp_path / "copy")["exit_code"] == code
    assert read_json(tmp_path / "status.json")["state"] == state
    assert (read_json(tmp_path / "status.json") == before) is (state == "done")
    again = Status({"TORCHELASTIC_RESTART_COUNT": "1", "TWINSTEP_STATUS": str(tmp_path / "copy")})
    assert (again.final_status(tmp_path) is not None) is (code != 1)


def test_a_log_on_a_full_disk_does_not_change_how_a_start_ends(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "distrib.train", tmp_path / "no.toml"]
    environment = os.environ | {"TWINSTEP_STATUS": str(tmp_path / "status")}
    with Path("/dev/full").open("w") as full:
        result = subprocess.run(command, cwd=ROOT, env=environment, stderr=full, check=False)
    assert (result.returncode, read_json(tmp_path / "status")["exit_code"]) == (2, 2)


def test_what_is_no_file_is_refused_and_never_replaced(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    status = Status({"TWINSTEP_STATUS": str(pipe)})
    with pytest.raises(BadInput, match=r"TWINSTEP_STATUS = .*pipe: a pipe is in its place"):
        status.check()
    status.write(2, "refused")
    assert pipe.is_fifo()


@pytest.mark.parametrize("text", ["[" * 100_000, "[]", "3", '{"exit_code": {}}', "\0"])
def test_a_status_of_somebody_else_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "status.json").write_text(text)
    status = Status({"TORCHELASTIC_RESTART_COUNT": "1"})
    assert status.final_status(tmp_path) is None
