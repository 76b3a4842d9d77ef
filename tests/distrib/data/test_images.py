"""Tests what every source of images ends up as."""

from dataclasses import replace

import numpy
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from distrib.data.images import Dataset, Split, as_bytes


def noise(count: int, size: int = 4, seed: int = 0, channels: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, size, size, channels), dtype=torch.uint8, generator=generator)


def dataset() -> Dataset:
    return Dataset(
        "noise", ("a", "b"), Split(noise(20), torch.arange(20) % 2), Split(noise(6, seed=1), torch.arange(6) % 2)
    )


def changed(tensor: Tensor, position: int) -> Tensor:
    copy = tensor.clone()
    copy.view(-1)[position] += 1
    return copy


@pytest.mark.parametrize("count", [1, 1023, 1024, 1025, 2500])
@pytest.mark.parametrize("channels", [1, 3])
def test_moments_are_those_of_numpy(count: int, channels: int) -> None:
    images = noise(count, channels=channels)
    images[..., 0] //= 3  # channels must not be mixed up
    train = Split(images, torch.zeros(count, dtype=torch.int64))
    mean, std = replace(dataset(), train=train).moments()
    values = images.numpy().astype(numpy.float64) / 255
    assert mean.dtype == std.dtype == torch.float32
    assert mean.tolist() == pytest.approx(values.mean(axis=(0, 1, 2)).tolist(), rel=1e-6)
    assert std.tolist() == pytest.approx(values.std(axis=(0, 1, 2)).tolist(), rel=1e-6)


def test_moments_do_not_depend_on_order_or_test_images() -> None:
    data = dataset()
    shuffled = Split(data.train.images.flip(0), data.train.labels)
    other = replace(data, train=shuffled, test=Split(noise(3, seed=9), torch.zeros(3, dtype=torch.int64)))
    for one, two in zip(data.moments(), other.moments(), strict=True):
        assert torch.equal(one, two)


def test_a_channel_of_one_value_can_be_divided_by() -> None:
    black = Split(torch.zeros(5, 4, 4, 3, dtype=torch.uint8), torch.zeros(5, dtype=torch.int64))
    mean, std = replace(dataset(), train=black).moments()
    assert (mean == 0).all()
    assert (std > 0).all()


@settings(max_examples=40, deadline=None)
@given(classes=st.integers(1, 12), each=st.integers(1, 30), data=st.data())
def test_evenly_takes_as_many_of_each_class(classes: int, each: int, data: st.DataObject) -> None:
    count = data.draw(st.integers(1, classes * each))
    labels = torch.arange(classes).repeat_interleave(each)  # as in a folder: class after class
    split = Split(torch.arange(classes * each), labels).evenly(count)
    assert len(split) == len(split.images) == count
    assert len(torch.bincount(split.images).nonzero()) == count, "an image was taken twice"
    counts = torch.bincount(split.labels, minlength=classes)
    assert counts.max() - counts.min() <= 1
    assert torch.equal(labels[split.images], split.labels), "images and labels no longer belong together"


@pytest.mark.parametrize("count", [None, 20, 21, 10**9])
def test_evenly_takes_all_when_there_are_not_more(count: int | None) -> None:
    split = dataset().train
    taken = split.evenly(count)
    assert torch.equal(taken.images, split.images)
    assert torch.equal(taken.labels, split.labels)


def test_fingerprint_is_repeatable_and_about_content_only() -> None:
    assert dataset().fingerprint() == dataset().fingerprint()
    assert dataset().fingerprint() == replace(dataset(), name="another").fingerprint()


@pytest.mark.parametrize("which", ["train", "test"])
@pytest.mark.parametrize("field", ["images", "labels"])
@pytest.mark.parametrize("position", [0, -1])
def test_fingerprint_sees_one_pixel_and_one_label(which: str, field: str, position: int) -> None:
    data = dataset()
    split = data.train if which == "train" else data.test
    images, labels = split.images, split.labels
    other = Split(changed(images, position), labels) if field == "images" else Split(images, changed(labels, position))
    new = replace(data, train=other) if which == "train" else replace(data, test=other)
    assert new.fingerprint() != data.fingerprint()


def test_fingerprint_sees_order_shape_and_border_between_splits() -> None:
    data = dataset()
    images = torch.cat((data.train.images, data.test.images))
    labels = torch.cat((data.train.labels, data.test.labels))
    prints = {data.fingerprint()}
    for border in (19, 21):
        moved = replace(
            data, train=Split(images[:border], labels[:border]), test=Split(images[border:], labels[border:])
        )
        prints.add(moved.fingerprint())
    prints.add(replace(data, train=Split(data.train.images.flip(0), data.train.labels)).fingerprint())
    prints.add(replace(data, train=Split(data.train.images.reshape(20, 2, 8, 3), data.train.labels)).fingerprint())
    assert len(prints) == 5


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.float32, torch.bfloat16])
def test_bytes_of_a_tensor_are_in_logical_order(dtype: torch.dtype) -> None:
    tensor = torch.arange(24).reshape(4, 6).to(dtype)
    assert bytes(as_bytes(tensor.t().contiguous().t())) == bytes(as_bytes(tensor))
    assert len(as_bytes(tensor)) == 24 * dtype.itemsize
    if dtype != torch.bfloat16:  # numpy has none
        assert bytes(as_bytes(tensor)) == tensor.numpy().tobytes()
