"""Crops, mixed images and mixed labels through the real trainer: the loss, any number of ranks, exact resume, bad input."""

from pathlib import Path

import pytest
import torch
from torch.nn import functional

from distrib.data.batches.augment import Augmentation
from distrib.data.batches.batches import Batches
from distrib.data.batches.mixing import Mixing
from distrib.data.batches.normalize import Normalize
from distrib.data.batches.plan import Plan
from distrib.data.sources import synthetic
from distrib.networks.build import build_network
from distrib.networks.config import ModelConfig
from tests.support import SMALL, checkpoint_of, losses, read_json, tensor_bytes, train_well

MIXED = (
    *SMALL,
    "--data.mixup=0.4",
    "--data.cutmix=1.0",
    "--data.crop_scale=[0.4,1.0]",
    "--training.label_smoothing=0.1",
)


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("straight")
    train_well(folder, *MIXED, "--checkpoint.every_steps=7", "--checkpoint.keep=9")
    return folder


def test_the_loss_is_that_of_both_labels(straight: Path) -> None:
    """Of the first step, from probabilities as targets; the network is still the one that the seed makes."""
    data = synthetic.load(160, 50)
    torch.manual_seed(0)
    network = build_network(ModelConfig(), 10)
    plan = Plan(num_images=160, batch_size=16, last_batch="drop", accumulate=1, seed=0, rank=0, world_size=1)
    normalize = Normalize(*data.moments(), torch.device("cpu"), channels_last=False)
    (part,) = Batches(
        data.train, plan, normalize, Augmentation(crop_scale=(0.4, 1.0)), Mixing(mixup=0.4, cutmix=1.0)
    ).at(1)
    assert part.mixed is not None
    assert 0.1 < part.mixed.share < 0.9, "hardly mixed, so that this test could not tell"
    own, other = (functional.one_hot(labels, 10).double() for labels in (part.labels, part.mixed.labels))
    targets = part.mixed.share * own + (1 - part.mixed.share) * other
    expected = functional.cross_entropy(network(part.images).double(), targets, label_smoothing=0.1)
    assert losses(straight)[0] == pytest.approx(expected.item(), rel=1e-5)


def test_ranks_and_parts_take_the_same_steps(straight: Path, tmp_path: Path) -> None:
    train_well(tmp_path, *MIXED, "--training.accumulate=2", world_size=2)
    assert losses(tmp_path) == pytest.approx(losses(straight), rel=1e-4)


def test_a_resumed_run_ends_with_the_same_bytes(straight: Path, tmp_path: Path) -> None:
    resumed = train_well(tmp_path, *MIXED, f"--checkpoint.resume={checkpoint_of(straight, 7)}")
    whole = read_json(straight / "summary.json")
    assert resumed["weights_sha256"] == whole["weights_sha256"]
    assert tensor_bytes(checkpoint_of(tmp_path, 20)) == tensor_bytes(checkpoint_of(straight, 20))


def test_the_page_shows_images_as_they_are_mixed(straight: Path) -> None:
    images = read_json(straight / "page" / "images.json")["images"]
    assert all(", " in image["label"] and image["label"].count("%") == 2 for image in images)
