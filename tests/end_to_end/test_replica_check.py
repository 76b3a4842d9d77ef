"""Ranks that hold different bytes are found and named, and what they hold is never saved."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from distrib.optim.update import Update
from tests.support import OVERFLOWING, QUICKSTART, RECIPES, SMALL, Result, read_json, train, train_well

RECIPE = {"sgd": RECIPES / "sgd-onecycle.toml", "adam": RECIPES / "adam-onecycle.toml"}
AVERAGED = "--training.ema=0.9"


@dataclass(frozen=True)
class After:
    """A fault to plant: it does `harm` to the rank `rank` right after the update `step`."""

    step: int
    rank: int
    harm: Callable[[Update], None]

    def __call__(self, rank: int) -> None:
        if rank != self.rank:
            return
        step, after, harm = Update.step, self.step, self.harm

        def harmed(self: Update) -> bool:
            applied = step(self)
            if self.applied == after:
                harm(self)
            return applied

        Update.step = harmed


def flip(tensor: Tensor) -> None:
    """Change the lowest bit of the last element of a float32 tensor."""
    tensor.detach().view(-1).view(torch.int32)[-1:].bitwise_xor_(1)


def parameter(update: Update) -> Tensor:
    """Return the second parameter, 0.bias."""
    return update.parameters[1]


def flip_parameter(update: Update) -> None:
    flip(parameter(update))


def flip_momentum(update: Update) -> None:
    flip(update.optimizer.state[parameter(update)]["momentum_buffer"])


def flip_exp_avg_sq(update: Update) -> None:
    flip(update.optimizer.state[parameter(update)]["exp_avg_sq"])


def flip_step(update: Update) -> None:
    flip(update.optimizer.state[parameter(update)]["step"])


def flip_average(update: Update) -> None:
    assert update.average is not None
    flip(list(update.average.parameters())[1])


def lose_state(update: Update) -> None:
    del update.optimizer.state[parameter(update)]["momentum_buffer"]


def miscount(update: Update) -> None:
    update.applied += 1


def fault(folder: Path, *arguments: str, harm: Callable[[Update], None], rank: int = 1, **world: Any) -> str:
    """Do the harm after step 5 and return the message of rank 0.

    All ranks must end with 1 and without a traceback.
    """
    recipe = world.pop("recipe", QUICKSTART)
    results = train([recipe, *SMALL, *arguments, "--output.dir", folder], plant=After(5, rank, harm), **world)
    assert [result.code for result in results] == [1] * world["world_size"], results
    assert all("Traceback" not in result.err for result in results)
    assert [result.err for result in results[1:]] == [""] * (len(results) - 1)
    status = read_json(folder / "status.json")
    assert (status["state"], status["exit_code"]) == ("failed", 1)
    assert results[0].err.strip() == f"fault: {status['reason'].removeprefix('fault: ')}"
    return results[0].err


def saved(folder: Path) -> list[str]:
    """Return the names of the checkpoints."""
    return sorted(path.name for path in (folder / "checkpoints").glob("*"))


@pytest.mark.parametrize(
    ("optimizer", "harm", "what"),
    [
        ("sgd", flip_parameter, "0.bias param"),
        ("sgd", flip_momentum, "0.bias momentum_buffer"),
        ("sgd", flip_average, "0.bias ema"),
        ("sgd", lose_state, "0.bias momentum_buffer (absent on rank 1)"),
        ("sgd", miscount, "applied_updates"),
        ("adam", flip_parameter, "0.bias param"),
        ("adam", flip_exp_avg_sq, "0.bias exp_avg_sq"),
        ("adam", flip_step, "0.bias step"),
    ],
)
def test_one_bit_on_one_rank_is_named_with_rank_tensor_and_step(
    tmp_path: Path, optimizer: str, harm: Callable[[Update], None], what: str
) -> None:
    options = (AVERAGED, "--training.check_ranks_every=1", "--checkpoint.every_steps=1", "--checkpoint.keep=99")
    said = fault(tmp_path, *options, harm=harm, recipe=RECIPE[optimizer], world_size=3)
    assert f"step 5: rank 1 differs from the other ranks in {what}, where" in said
    assert "at step 4 all agreed" in said
    assert saved(tmp_path) == [f"step-{step:08d}" for step in (1, 2, 3, 4)]


@pytest.mark.parametrize(("world_size", "rank"), list(product((2, 4), (0, 1))))
def test_any_rank_may_be_the_one(tmp_path: Path, world_size: int, rank: int) -> None:
    said = fault(tmp_path, "--training.check_ranks_every=1", harm=flip_parameter, rank=rank, world_size=world_size)
    who = "rank 0 and rank 1 differ in" if world_size == 2 else f"rank {rank} differs from the other ranks in"
    assert f"step 5: {who} 0.bias param, where" in said
    assert saved(tmp_path) == []


def test_a_difference_does_not_heal_and_keeps_its_place(tmp_path: Path) -> None:
    """Gradients are summed over the ranks, so they do not spread the difference to other tensors."""
    said = fault(tmp_path, "--training.check_ranks_every=4", harm=flip_parameter, world_size=3)
    assert "step 8: rank 1 differs from the other ranks in 0.bias param, where" in said
    assert "at step 4 all agreed" in said


@pytest.mark.parametrize("options", [(), ("--checkpoint.every_steps=6",)], ids=["end of an epoch", "every 6 steps"])
def test_nothing_is_saved_unseen(tmp_path: Path, options: tuple[str, ...]) -> None:
    """By default ranks are compared after 100 steps. Here checkpoints come earlier, and ranks are compared before each."""
    said = fault(tmp_path, *options, harm=flip_parameter, world_size=2)
    assert f"step {6 if options else 10}: rank 0 and rank 1 differ" in said
    assert "no earlier step of this run was compared" in said
    assert saved(tmp_path) == []


def test_after_the_fault_the_same_command_continues(tmp_path: Path) -> None:
    options = ("--checkpoint.every_steps=4", "--training.check_ranks_every=1")
    fault(tmp_path / "harmed", *options, harm=flip_parameter, world_size=2)
    resumed = train_well(tmp_path / "harmed", *SMALL, *options, world_size=2)
    assert Path(resumed["resumed_from"]).name == "step-00000004"
    straight = train_well(tmp_path / "straight", *SMALL, *options, world_size=2)
    assert resumed["weights_sha256"] == straight["weights_sha256"]


def test_none_compares_nothing(tmp_path: Path) -> None:
    arguments = [QUICKSTART, *SMALL, "--training.check_ranks_every=none", "--output.dir", tmp_path]
    results: list[Result] = train(arguments, plant=After(5, 1, flip_parameter), world_size=2)
    assert [result.code for result in results] == [0, 0]
    assert read_json(tmp_path / "summary.json")["crosscheck"]["rank_checks"] == 0


@pytest.mark.parametrize(
    ("world_size", "optimizer", "kernels"),
    [(2, "sgd", "fused"), (4, "sgd", "foreach"), (2, "adam", "foreach"), (4, "adam", "fused")],
)
def test_ranks_of_a_sound_run_agree_at_every_step(
    tmp_path: Path, world_size: int, optimizer: str, kernels: str
) -> None:
    options = (AVERAGED, "--training.check_ranks_every=1", f"--optimizer.{kernels}=true")
    summary = train_well(tmp_path, *SMALL, *options, recipe=RECIPE[optimizer], world_size=world_size)
    assert summary["crosscheck"]["rank_checks"] == summary["steps"] == 20


def test_skipped_steps_are_no_difference(tmp_path: Path) -> None:
    options = ("--training.epochs=1", "--training.check_ranks_every=1")
    summary = train_well(tmp_path, *SMALL, *OVERFLOWING, *options, world_size=2)
    assert summary["skipped_steps"] > 0
    assert summary["crosscheck"]["rank_checks"] == summary["steps"] == 10


def test_a_run_compares_every_so_often_and_before_each_checkpoint(tmp_path: Path) -> None:
    options = ("--training.check_ranks_every=8", "--checkpoint.every_steps=6")
    summary = train_well(tmp_path, *SMALL, *options, world_size=2)
    assert summary["crosscheck"]["rank_checks"] == len({8, 16} | {6, 12, 18} | {10, 20})


def test_a_world_of_one_has_nobody_to_compare_with(tmp_path: Path) -> None:
    assert train_well(tmp_path, *SMALL, "--training.check_ranks_every=1")["crosscheck"]["rank_checks"] == 0
