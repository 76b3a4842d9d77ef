"""Several processes: the same run, one voice, and a clear end when one of them dies."""

import signal
import time
from functools import partial
from pathlib import Path

import pytest

from tests.end_to_end.faults import deaf_after
from tests.support import QUICKSTART, SMALL, losses, read_json, start, train, train_well, wait_for

LONG = (*SMALL, "--training.epochs=500")


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("alone")
    train_well(folder, *SMALL, "--training.batch_size=50")
    return folder


@pytest.mark.parametrize(("world_size", "parts"), [(2, 1), (3, 1), (4, 1), (3, 2)])
def test_the_loss_does_not_depend_on_the_number_of_ranks(
    tmp_path: Path, alone: Path, world_size: int, parts: int
) -> None:
    """50 images divide neither by 3 nor by 4."""
    options = ("--training.batch_size=50", f"--training.accumulate={parts}")
    summary = train_well(tmp_path, *SMALL, *options, world_size=world_size)
    assert summary["world_size"] == world_size
    assert losses(tmp_path) == pytest.approx(losses(alone), rel=2e-5)
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
    results = ranks.wait(40)
    survivors = [rank for rank in range(3) if rank != victim]
    assert results[victim].code == -signal.SIGKILL
    assert [results[rank].code for rank in survivors] == [1, 1]
    said = results[survivors[0]].err
    assert f"rank {victim} stopped answering" in said
    assert "Traceback" not in said
    status = read_json(tmp_path / "status.json")
    assert (status["state"], status["exit_code"]) == ("failed", 1)
    assert f"rank {victim}" in status["reason"]


def test_a_rank_that_hangs_is_named_after_the_timeout(tmp_path: Path) -> None:
    ranks = start([QUICKSTART, *LONG, "--output.dir", tmp_path, "--training.timeout_seconds=4"], world_size=2)
    wait_for(tmp_path / "metrics.jsonl", '"kind": "epoch"')
    ranks.send(1, signal.SIGSTOP)
    began = time.monotonic()
    ranks.processes[0].join(45)
    assert ranks.processes[0].exitcode == 1
    assert time.monotonic() - began < 30
    assert "rank 1 stopped answering" in ranks.read(0)[1]
    ranks.send(1, signal.SIGKILL)


@pytest.mark.parametrize("victim", [0, 1])
def test_ranks_that_no_error_reaches_leave_all_the_same(tmp_path: Path, victim: int) -> None:
    """As on GPUs, where the main thread waits for a collective that a dead rank will never take part in."""
    timeout = 4
    options = (*LONG, f"--training.timeout_seconds={timeout}", "--output.dir", tmp_path)
    ranks = start([QUICKSTART, *options], world_size=3, plant=partial(deaf_after, 5))
    wait_for(tmp_path / "metrics.jsonl", '"step": 5,')
    time.sleep(timeout + 1)
    assert all(process.is_alive() for process in ranks.processes)  # who counts is alive, however long it takes
    ranks.send(victim, signal.SIGKILL)
    began = time.monotonic()
    results = ranks.wait(30)
    assert time.monotonic() - began < timeout + 4  # of it, 4 s for busy cores
    survivors = [rank for rank in range(3) if rank != victim]
    assert [results[rank].code for rank in survivors] == [1, 1]
    assert f"rank {victim} stopped answering" in results[survivors[0]].err
    status = read_json(tmp_path / "status.json")
    assert (status["state"], status["exit_code"], status["retry"]) == ("failed", 1, True)
    assert f"rank {victim}" in status["reason"]


def test_a_request_to_any_rank_stops_all_at_the_same_step(tmp_path: Path) -> None:
    ranks = start([QUICKSTART, *LONG, "--output.dir", tmp_path], world_size=2)
    wait_for(tmp_path / "metrics.jsonl", '"kind": "epoch"')
    ranks.send(1, signal.SIGUSR1)
    assert [result.code for result in ranks.wait(30)] == [75, 75]
    assert read_json(tmp_path / "status.json")["state"] == "stopped"


@pytest.mark.parametrize("variable", ["ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED"])
def test_sharded_training_is_refused_by_name(tmp_path: Path, variable: str) -> None:
    [result] = train([QUICKSTART, *SMALL, "--output.dir", tmp_path], environment={variable: "true"})
    assert result.code == 2
    assert variable in result.err
