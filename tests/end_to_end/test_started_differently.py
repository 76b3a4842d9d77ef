"""Ranks that were started differently end with 2 at the start, on all ranks, and never train."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import distrib.command
from distrib.data.sources import sources
from tests.support import QUICKSTART, SMALL, Result, replace_attribute, train


def another_recipe(overrides: Sequence[str], rank: int) -> None:
    """Give rank 1 these overrides as well."""
    resolve: Any = distrib.command.resolve

    def with_more(model: Any, recipe: Path, given: Sequence[str]) -> Any:
        return resolve(model, recipe, [*given, *overrides])

    if rank == 1:
        replace_attribute(distrib.command, "resolve", with_more)


def other_images(rank: int) -> None:
    """Give rank 1 a training image that has one other pixel."""
    load: Any = sources.load

    def spoiled(*arguments: Any) -> Any:
        dataset = load(*arguments)
        dataset.train.images[7, 3, 3, 0] ^= 1
        return dataset

    if rank == 1:
        replace_attribute(sources, "load", spoiled)


def refused(results: list[Result], folder: Path, *words: str) -> None:
    assert [result.code for result in results] == [2, 2], results
    assert results[0].err.startswith("bad input: the ranks were started differently: ")
    for word in words:
        assert word in results[0].err
    assert not (folder / "metrics.jsonl").exists()


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["--training.seed=7"], ["training.seed = 0 on rank 0, but 7 on rank 1"]),
        (
            ["--training.check_ranks_every=3", "--training.eval_batch_size=64"],
            ["check_ranks_every = 100 on rank 0, but 3 on rank 1", "eval_batch_size = 512 on rank 0, but 64"],
        ),
    ],
)
def test_another_recipe_is_refused(tmp_path: Path, overrides: list[str], words: list[str]) -> None:
    plant = partial(another_recipe, overrides)
    refused(train([QUICKSTART, *SMALL, "--output.dir", tmp_path], world_size=2, plant=plant), tmp_path, *words)


def test_other_images_under_the_same_name_are_refused(tmp_path: Path) -> None:
    results = train([QUICKSTART, *SMALL, "--output.dir", tmp_path], world_size=2, plant=other_images)
    refused(results, tmp_path, "fingerprint of the images = ")


def test_what_each_machine_may_have_for_itself(tmp_path: Path) -> None:
    plant = partial(another_recipe, [f"--data.root={tmp_path}/other", "--output.quiet"])
    options = ("--training.epochs=1", "--data.train_images=64")
    results = train([QUICKSTART, *SMALL, *options, "--output.dir", tmp_path / "run"], world_size=2, plant=plant)
    assert [result.code for result in results] == [0, 0], results
