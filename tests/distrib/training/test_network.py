"""Tests what the batches of a recipe must be for its network."""

from dataclasses import replace

import pytest
import torch

from distrib.data.batches.plan import Plan
from distrib.data.sources import synthetic
from distrib.errors import BadInput
from distrib.training.network import make_network
from tests.distrib.recipes import Load

EIGHT_LEFT = Plan(num_images=40, batch_size=16, last_batch="mask", accumulate=1, seed=0, rank=0, world_size=1)


def make(load: Load, plan: Plan, *options: str) -> None:
    data = synthetic.load(16, 8)
    make_network(load(*options), data, data.moments(), plan, torch.device("cpu"))


def test_a_masked_batch_may_be_too_small_for_a_batch_norm(load: Load) -> None:
    make(load, replace(EIGHT_LEFT, world_size=4), "--model.name=tests.networks:drawn")
    with pytest.raises(BadInput, match=r"last_batch = mask: the last batch of an epoch, of 8 images, leaves one image"):
        make(load, replace(EIGHT_LEFT, world_size=8), "--model.name=tests.networks:drawn")
    make(load, replace(EIGHT_LEFT, world_size=8))


def test_a_compiled_batch_norm_needs_parts_of_one_size(load: Load) -> None:
    options = ("--model.name=tests.networks:drawn", "--training.compile")
    make(load, replace(EIGHT_LEFT, last_batch="drop"), *options)
    make(load, EIGHT_LEFT, "--training.compile")
    with pytest.raises(BadInput, match=r"training\.compile = true: .*parts have 8 to 16 images"):
        make(load, EIGHT_LEFT, *options)
