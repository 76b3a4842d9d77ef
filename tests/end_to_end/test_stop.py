"""A request to stop at any moment ends with 75 and loses nothing: the next start ends with the bytes of an undisturbed run."""

import functools
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.end_to_end.faults import UPDATE, asked_in
from tests.support import QUICKSTART, SMALL, epochs, losses, read_json, start, train, train_well, wait_for

AVERAGED = (*SMALL, "--training.ema=0.9")
RECORDED = ("--crosscheck.record=true", "--crosscheck.gradient_steps=[]")
NOTHING_SAVED = {"loading data", "resuming", "building"}

MOMENTS: dict[str, tuple[str, str]] = {
    "loading data": ("distrib.data.sources.sources", "load"),
    "building": ("distrib.training.build", "build_optimizer"),
    "resuming": ("distrib.checkpoint.resume", "continue_from"),
    "warming up": ("distrib.training.build", "StepSync"),
    "evaluation": ("distrib.training.run", "evaluate"),
    "checkpoint": ("distrib.checkpoint.store", "save"),
    "replay": ("distrib.crosscheck", "_until_asked"),
}
"""Each moment at which the request comes, with the module and the name of the function that is called then."""


def ask_in(moment: str, on_rank: int, rank: int) -> None:
    """Send the rank a signal when it first enters the function of this moment."""
    if rank == on_rank:
        asked_in(*MOMENTS[moment], 1, rank)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    @functools.cache
    def run(world_size: int) -> Path:
        folder = tmp_path_factory.mktemp("undisturbed")
        train_well(folder, *AVERAGED, world_size=world_size)
        return folder

    return run


@pytest.mark.parametrize(
    ("moment", "world_size"),
    [*((moment, 1) for moment in MOMENTS), ("loading data", 2), ("evaluation", 2), ("checkpoint", 2)],
)
def test_at_any_moment(tmp_path: Path, undisturbed: Callable[[int], Path], moment: str, world_size: int) -> None:
    """With two ranks, rank 1 is asked if it calls the function, and rank 0 if not."""
    asked = 1 if world_size == 2 and moment in ("loading data", "evaluation") else 0
    command = [QUICKSTART, *AVERAGED, *(RECORDED if moment == "replay" else ()), "--output.dir", tmp_path]
    results = train(command, world_size=world_size, plant=functools.partial(ask_in, moment, asked))
    status = read_json(tmp_path / "status.json")
    assert [result.code for result in results] == [75] * world_size, results
    assert (status["state"], status["exit_code"], status["retry"]) == ("stopped", 75, True)
    assert "stopped on request" in status["reason"]
    assert [result.err for result in results] == [""] * world_size
    if moment in NOTHING_SAVED:
        assert not (tmp_path / "checkpoints").exists()

    assert [result.code for result in train(command, world_size=world_size)] == [0] * world_size
    summary, expected = (read_json(folder / "summary.json") for folder in (tmp_path, undisturbed(world_size)))
    assert summary["weights_sha256"] == expected["weights_sha256"]
    assert summary["test_loss"] == expected["test_loss"]
    assert summary["crosscheck"]["verdict"] == ("match" if moment == "replay" else "not recorded")
    assert losses(tmp_path) == losses(undisturbed(world_size))
    assert [line["epoch"] for line in epochs(tmp_path)] == [1, 2]


@pytest.mark.parametrize("update", [10, 20], ids=["an epoch's last step", "the last step"])
def test_at_a_step_before_an_evaluation(tmp_path: Path, undisturbed: Callable[[int], Path], update: int) -> None:
    """The checkpoint is written and the evaluation is left to the next start."""
    command = [QUICKSTART, *AVERAGED, "--output.dir", tmp_path]
    [result] = train(command, plant=functools.partial(asked_in, *UPDATE, update))
    assert result.code == 75
    assert read_json(tmp_path / "status.json")["step"] == update
    assert [line["epoch"] for line in epochs(tmp_path)] == [1, 2][: update // 10 - 1]
    second, third = train(command)[0], train(command)[0]
    assert (second.code, third.code) == (0, 0)
    # The third start finds a complete run, although the newest checkpoint still says that an evaluation is due.
    assert "holds this run complete" in third.out
    assert [line["epoch"] for line in epochs(tmp_path)] == [1, 2]
    told = [line for line in second.out.splitlines() if line.startswith("epoch ") and "test accuracy" in line]
    # Before its first step a start does not know its speed.
    assert ["images/s" in line for line in told] == ([False, True] if update == 10 else [False])
    assert [line["lr"] for line in epochs(tmp_path)] == [line["lr"] for line in epochs(undisturbed(1))]
    summary, expected = (read_json(folder / "summary.json") for folder in (tmp_path, undisturbed(1)))
    for key in ("weights_sha256", "train_loss", "test_loss", "test_accuracy"):
        assert summary[key] == expected[key]


def test_results_do_not_outlive_the_step_that_they_are_of(tmp_path: Path) -> None:
    """Once a complete run goes on they are neither in its folder nor on its page, and it is not complete."""
    train_well(tmp_path, *SMALL, "--training.epochs=1")
    (tmp_path / "crosscheck.json").write_text('{"verdict": "match"}')
    command = [QUICKSTART, *SMALL, "--output.dir", tmp_path]
    [result] = train(command, plant=functools.partial(asked_in, *UPDATE, 10))
    assert (result.code, read_json(tmp_path / "status.json")["step"]) == (75, 20)
    assert not any((tmp_path / name).exists() for name in ("summary.json", "crosscheck.json", "page/mistakes.json"))
    assert "There is no verdict before training is over" in (tmp_path / "index.html").read_text()
    assert train(command)[0].code == 0
    assert read_json(tmp_path / "summary.json")["steps"] == 20


def test_before_the_process_group_exists(tmp_path: Path) -> None:
    """Rank 0 waits for rank 1, which is never started."""
    world = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    status = tmp_path / "status"
    ranks = start(
        [QUICKSTART, *SMALL, "--output.dir", tmp_path / "run"], environment=world | {"TWINSTEP_STATUS": str(status)}
    )
    time.sleep(3)
    ranks.send(0, signal.SIGTERM)
    [result] = ranks.wait()
    assert result.code == 75
    assert (read_json(status)["state"], read_json(status)["retry"]) == ("stopped", True)
    assert not (tmp_path / "run").exists()


def test_a_second_ctrl_c_ends_it_at_once(tmp_path: Path) -> None:
    """It does so even if the first Ctrl-C cannot be answered because another rank hangs."""
    ranks = start([QUICKSTART, *SMALL, "--training.epochs=500", "--output.dir", tmp_path], world_size=2)
    wait_for(tmp_path / "metrics.jsonl", '"kind": "epoch"')
    ranks.send(1, signal.SIGSTOP)
    ranks.send(0, signal.SIGINT)
    time.sleep(2.3)
    ranks.send(0, signal.SIGINT)
    ranks.processes[0].join(60)
    ranks.send(1, signal.SIGKILL)
    assert ranks.wait()[0].code == 130
    status = read_json(tmp_path / "status.json")
    assert (status["state"], status["exit_code"], status["retry"]) == ("failed", 130, False)
