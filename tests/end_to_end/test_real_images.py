"""Trains on a part of the real CIFAR-10 images, if they are there (see .ci/run)."""

from pathlib import Path

import pytest

from tests.support import RECIPES, ROOT, train_well

IMAGES = ROOT / ".cache" / "cifar10-jpeg"


@pytest.mark.skipif(not IMAGES.is_dir(), reason="no real images in .cache/cifar10-jpeg")
@pytest.mark.parametrize("recipe", ["sgd-onecycle", pytest.param("adam-onecycle", marks=pytest.mark.matrix)])
def test_two_epochs_on_a_tenth_of_cifar10(tmp_path: Path, recipe: str) -> None:
    size = ("--data.train_images=5000", "--data.test_images=1000", "--training.epochs=2", "--training.batch_size=32")
    # The batches are smaller than the recipe's, so the peak of the rate is too, in proportion.
    lr = "--optimizer.lr=0.01" if recipe == "sgd-onecycle" else "--optimizer.lr=1e-3"
    source = (f"--data.source=folder:{IMAGES}", f"--data.root={IMAGES.parent}")
    summary = train_well(tmp_path, *source, *size, lr, recipe=RECIPES / f"{recipe}.toml")
    assert summary["test_accuracy"] > 0.35, "chance is 0.1"
