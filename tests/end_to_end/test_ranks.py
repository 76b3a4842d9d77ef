"""Several ranks make the same run as one, only one of them prints, and the run ends clearly when one of them dies."""

import errno
import os
import signal
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator

import distrib.command
from tests.end_to_end.faults import deaf_after, fails_after
from tests.support import (
    QUICKSTART,
    SMALL,
    Ranks,
    Result,
    losses,
    read_json,
    replace_attribute,
    start,
    steps,
    train,
    train_well,
    wait_for,
)

LONG = (*SMALL, "--training.epochs=500")
TIMEOUT = 4  # seconds
SILENCE = 3  # seconds, three quarters of it: so long a rank may be silent
PATIENCE = 120  # seconds that a busy machine may take over a moment's work
SHORT = (f"--training.timeout_seconds={TIMEOUT}",)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("alone")
    train_well(folder, *SMALL, "--training.batch_size=10")
    return folder


@pytest.mark.parametrize(("world_size", "parts"), [(2, 1), (3, 1), (4, 1), (3, 2)])
def test_the_loss_does_not_depend_on_the_number_of_ranks(
    tmp_path: Path, alone: Path, world_size: int, parts: int
) -> None:
    """A batch of 10 images divides neither by 3 nor by 4."""
    options = ("--training.batch_size=10", f"--training.accumulate={parts}")
    summary = train_well(tmp_path, *SMALL, *options, world_size=world_size)
    assert summary["world_size"] == world_size
    assert losses(tmp_path) == pytest.approx(losses(alone), rel=2e-5)
    norms, expected = ([line["gradient_norm"] for line in steps(folder)] for folder in (tmp_path, alone))
    assert norms == pytest.approx(expected, rel=1e-3), "of the gradient that is averaged over the ranks"
    assert summary["test_accuracy"] == read_json(alone / "summary.json")["test_accuracy"]


def test_only_rank_0_speaks(tmp_path: Path) -> None:
    first, *others = train([QUICKSTART, *SMALL, "--output.dir", tmp_path], world_size=3)
    assert "done:" in first.out
    assert [(other.out, other.err) for other in others] == [("", ""), ("", "")]


@pytest.mark.parametrize("victim", [0, 1, 2])
def test_when_a_rank_is_killed_the_others_leave_and_name_it(tmp_path: Path, victim: int) -> None:
    ranks = start([QUICKSTART, *LONG, "--output.dir", tmp_path], world_size=3)
    wait_for(tmp_path / "metrics.jsonl", '"kind": "epoch"')
    ranks.send(victim, signal.SIGKILL)
    results = ranks.wait()  # where no error reaches a survivor, it leaves after three quarters of the time-out of 60 s
    survivors = [rank for rank in range(3) if rank != victim]
    assert results[victim].code == -signal.SIGKILL
    assert [results[rank].code for rank in survivors] == [1, 1]
    said = results[survivors[0]].err
    assert f"rank {victim} stopped answering" in said
    assert "Traceback" not in said
    status = read_json(tmp_path / "status.json")
    assert (status["state"], status["exit_code"]) == ("failed", 1)
    assert f"rank {victim}" in status["reason"]


def failures(folder: Path, error: Exception) -> Iterator[tuple[int, list[Result], dict[str, Any]]]:
    """Raise the error on rank 0 of one world and on rank 1 of another. Yield for each the victim, the results and the status.

    Both run at once, because a survivor waits for seconds before it names the victim.
    """
    command = [QUICKSTART, *LONG, "--output.dir"]
    worlds = [
        start([*command, folder / f"{victim}"], world_size=2, plant=partial(fails_after, 5, victim, error))
        for victim in (0, 1)
    ]
    for victim, ranks in enumerate(worlds):
        yield victim, ranks.wait(), read_json(folder / f"{victim}" / "status.json")


def test_a_disk_that_refuses_any_rank_is_named_by_it(tmp_path: Path) -> None:
    """The other ranks only see that this rank is gone."""
    refuses = OSError(errno.ENOSPC, "No space left on device", "/scratch/file")
    said = "bad input: /scratch/file cannot be written (No space left on device): free space"
    for victim, results, status in failures(tmp_path, refuses):
        assert (results[victim].code, results[victim].err.startswith(said)) == (2, True), results
        assert results[1 - victim].code == 1
        assert (status["exit_code"], status["retry"]) == (2, False)


@pytest.mark.parametrize(
    ("error", "words", "retry"),
    [
        (OSError(errno.EIO, "Input/output error", "/scratch/file"), "fault: /scratch/file: Input/output error", True),
        (torch.AcceleratorError("CUDA error: uncorrectable ECC error"), "uncorrectable ECC error", True),
        (torch.OutOfMemoryError("CUDA out of memory"), "CUDA out of memory", False),
    ],
    ids=["disk", "device", "memory"],
)
def test_whether_to_try_again_does_not_depend_on_the_rank(
    tmp_path: Path, error: Exception, words: str, retry: bool
) -> None:
    for victim, results, status in failures(tmp_path, error):
        assert [result.code for result in results] == [1, 1]
        assert words in results[victim].err
        assert (status["exit_code"], status["retry"]) == (1, retry)
        assert words in status["reason"]


def test_what_is_no_matter_of_a_disk_is_not_said_to_be_one(tmp_path: Path) -> None:
    """A failed connection raises an OSError too, but must not be reported as a full disk."""
    for victim, results, status in failures(tmp_path, ConnectionError("no route to the tracker")):
        assert [result.code for result in results] == [1, 1]
        assert results[victim].err.rstrip().endswith("ConnectionError: no route to the tracker")
        assert not any("free space" in result.err for result in results)
        assert status["exit_code"] == 1


@pytest.mark.parametrize("victim", [0, 1])
def test_a_rank_that_hangs_is_named_within_the_timeout(tmp_path: Path, victim: int) -> None:
    """Rank 0 hosts the store, so if it hangs, the store does not answer the others."""
    ranks = start([QUICKSTART, *LONG, *SHORT, "--output.dir", tmp_path], world_size=2)
    wait_for(tmp_path / "metrics.jsonl", '"kind": "epoch"')
    ranks.send(victim, signal.SIGSTOP)
    expect_the_others_to_leave(ranks, victim)


def test_ranks_that_no_error_reaches_leave_all_the_same(tmp_path: Path) -> None:
    """On GPUs the main thread waits for ever for a collective in which a dead rank takes no part."""
    ends = [(0, signal.SIGKILL), (1, signal.SIGKILL), (0, signal.SIGSTOP)]
    folders = [tmp_path / f"{victim} {number.name}" for victim, number in ends]
    command, deaf = [QUICKSTART, *LONG, *SHORT, "--output.dir"], partial(deaf_after, 5)
    worlds = [start([*command, folder], world_size=3, plant=deaf) for folder in folders]
    for folder in folders:
        wait_for(folder / "metrics.jsonl", '"step": 5,')
    time.sleep(TIMEOUT + 1)
    # A rank whose heartbeat goes on is alive, however long its main thread waits.
    assert all(process.is_alive() for ranks in worlds for process in ranks.processes)
    for ranks, (victim, number) in zip(worlds, ends, strict=True):
        ranks.send(victim, number)
    for folder, ranks, (victim, _) in zip(folders, worlds, ends, strict=True):
        expect_the_others_to_leave(ranks, victim)
        status = read_json(folder / "status.json")
        assert (status["state"], status["exit_code"], status["retry"]) == ("failed", 1, True)
        assert f"rank {victim}" in status["reason"]


def test_a_run_that_was_suspended_as_a_whole_lost_nobody(tmp_path: Path) -> None:
    ranks = start([QUICKSTART, *LONG, *SHORT, "--output.dir", tmp_path], world_size=2, plant=partial(deaf_after, 5))
    wait_for(tmp_path / "metrics.jsonl", '"step": 5,')
    for number, seconds in ((signal.SIGSTOP, TIMEOUT + 1), (signal.SIGCONT, 2)):
        for rank in (0, 1):
            ranks.send(rank, number)
        time.sleep(seconds)
    assert all(process.is_alive() for process in ranks.processes)
    ranks.send(1, signal.SIGKILL)
    expect_the_others_to_leave(ranks, 1)


def test_a_launcher_that_lost_a_rank_hears_of_it_before_it_kills_the_others(tmp_path: Path) -> None:
    """The launcher asks the others to stop and waits 30 s, even if it is told to wait longer after a requested stop."""
    patience = {"TORCH_ELASTIC_SHUTDOWN_TIMEOUT": "90"}
    ranks = start(
        [QUICKSTART, *LONG, "--output.dir", tmp_path],
        world_size=2,
        environment=patience,
        plant=partial(deaf_after, 5),
    )
    wait_for(tmp_path / "metrics.jsonl", '"step": 5,')
    ranks.send(0, signal.SIGTERM)
    ranks.send(1, signal.SIGKILL)
    expect_the_others_to_leave(ranks, 1, silence=10)
    assert "rank 1" in read_json(tmp_path / "status.json")["reason"]


def expect_the_others_to_leave(ranks: Ranks, victim: int, silence: int = SILENCE) -> None:
    """Check that the other ranks exit with 1, and that the first of them names the victim, which got a signal just now.

    It says after how many seconds of silence, which it counts in looks, so that a busy machine has all the time it needs.
    """
    survivors = [rank for rank in range(len(ranks.processes)) if rank != victim]
    deadline = time.monotonic() + PATIENCE
    for rank in survivors:
        ranks.processes[rank].join(max(0.0, deadline - time.monotonic()))
    codes = [ranks.processes[rank].exitcode for rank in survivors]
    for process in ranks.processes:
        process.kill()
    ranks.wait()
    said = ranks.read(survivors[0])[1]
    assert codes == [1] * len(survivors), said
    assert f"rank {victim} stopped answering" in said
    assert f"no sign of life for {silence} s" in said


def test_a_request_to_any_rank_stops_all_at_the_same_step(tmp_path: Path) -> None:
    ranks = start([QUICKSTART, *LONG, "--output.dir", tmp_path], world_size=2)
    wait_for(tmp_path / "metrics.jsonl", '"kind": "epoch"')
    ranks.send(1, signal.SIGUSR1)
    assert [result.code for result in ranks.wait()] == [75, 75]
    assert read_json(tmp_path / "status.json")["state"] == "stopped"


def test_bad_input_that_only_another_machine_has_is_said_there(tmp_path: Path) -> None:
    """Rank 1 is the first rank on a machine that lacks GPUs, while rank 0 waits for it to join."""
    environment = {"TWINSTEP_STATUS": str(tmp_path / "status")}
    ranks = start([QUICKSTART, *SMALL], world_size=2, environment=environment, plant=on_a_machine_without_gpus)
    ranks.processes[1].join(PATIENCE)
    ranks.send(0, signal.SIGKILL)
    assert ranks.wait()[1].code == 2
    assert "and SLURM gave this job 1: start one process a GPU" in ranks.read(1)[1]
    status = read_json(tmp_path / "status")
    assert (status["exit_code"], status["retry"]) == (2, False)


def test_a_tracker_may_take_its_time(tmp_path: Path) -> None:
    """A tracker may take longer to start than the time after which a silent rank counts as dead."""
    trackers = '--output.trackers=["tensorboard"]'
    results = train([QUICKSTART, *SMALL, *SHORT, trackers, "--output.dir", tmp_path], world_size=2, plant=slow_tracker)
    assert [result.code for result in results] == [0, 0], results


def on_a_machine_without_gpus(rank: int) -> None:
    replace_attribute(distrib.command, "_LET_RANK_0_REPORT", 0.5)
    if rank == 1:
        del os.environ["CUDA_VISIBLE_DEVICES"]
        os.environ |= {"LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1", "SLURM_GPUS_ON_NODE": "1"}
        replace_attribute(torch.cuda, "device_count", lambda: 0)


def slow_tracker(rank: int) -> None:
    def starts(_self: Accelerator, _project: str, **_how: object) -> None:
        assert rank == 0
        time.sleep(TIMEOUT + 2)

    replace_attribute(Accelerator, "init_trackers", starts)


@pytest.mark.parametrize("variable", ["ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED"])
def test_sharded_training_is_refused_by_name(tmp_path: Path, variable: str) -> None:
    [result] = train([QUICKSTART, *SMALL, "--output.dir", tmp_path], environment={variable: "true"})
    assert result.code == 2
    assert variable in result.err
