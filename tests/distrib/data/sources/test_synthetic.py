"""Drawn images: the same everywhere, balanced, and not to be told apart by a linear model."""

import hashlib
from typing import cast

import pytest
import torch
from torch import Tensor

from distrib.data.images import Split
from distrib.data.sources import synthetic


def digest(split: Split) -> str:
    return hashlib.sha256(split.images.numpy().tobytes() + split.labels.numpy().tobytes()).hexdigest()


def test_images_stay_the_same_from_version_to_version() -> None:
    data = synthetic.load(50, 30)
    assert digest(data.train) == "5be3acff8ce3b823c1ddbc604abe12d99c8a5ff90f77a80270627ff1e7d46d04"
    assert digest(data.test) == "31fc50f7f347e5912aef8009f4ae4a2aba97ee76b4ddc84090f88ed84c64b7ca"


def test_shapes_types_and_range() -> None:
    data = synthetic.load(30, 20)
    for split, count in ((data.train, 30), (data.test, 20)):
        assert split.images.shape == (count, 32, 32, 3)
        assert split.images.dtype == torch.uint8
        assert split.labels.dtype == torch.int64
    assert len(data.classes) == len(set(data.classes)) == 10
    assert data.train.images.float().std() > 30, "the images are flat"


@pytest.mark.parametrize("count", [10, 37, 200])
def test_classes_are_balanced(count: int) -> None:
    data = synthetic.load(count, count)
    for split in (data.train, data.test):
        counts = torch.bincount(split.labels, minlength=10)
        assert len(counts) == 10
        assert counts.max() - counts.min() <= 1


@pytest.mark.parametrize("count", [10, 37])
def test_an_image_does_not_depend_on_how_many_there_are(count: int) -> None:
    few, many = synthetic.load(count, count), synthetic.load(60, 60)
    assert torch.equal(few.train.images, many.train.images[:count])
    assert torch.equal(few.test.images, many.test.images[:count])


def test_no_image_comes_twice() -> None:
    data = synthetic.load(200, 200)
    everything = torch.cat((data.train.images, data.test.images)).flatten(1)
    assert len({image.numpy().tobytes() for image in everything}) == 400


def test_seeds_draw_different_images() -> None:
    one, two = synthetic.load(20, 20, seed=1), synthetic.load(20, 20, seed=2)
    assert not any(torch.equal(a, b) for a, b in zip(one.train.images, two.train.images, strict=True))


def test_a_linear_model_stays_near_chance() -> None:
    """Ridge regression onto one-hot labels, in its dual form; chance is 0.1."""
    data = synthetic.load(2000, 500)

    def features(split: Split) -> Tensor:
        return split.images.flatten(1).float() / 255

    centre = features(data.train).mean(dim=0)
    train, test = features(data.train) - centre, features(data.test) - centre
    targets = torch.nn.functional.one_hot(data.train.labels, 10).float() - 0.1
    dual = cast("Tensor", torch.linalg.solve(train @ train.T + 300 * torch.eye(len(train)), targets))
    accuracy = ((test @ (train.T @ dual)).argmax(dim=1) == data.test.labels).double().mean().item()
    fitted = ((train @ (train.T @ dual)).argmax(dim=1) == data.train.labels).double().mean().item()
    assert fitted > 0.5, "the model learned nothing, so its test result says nothing"
    assert accuracy < 0.2
