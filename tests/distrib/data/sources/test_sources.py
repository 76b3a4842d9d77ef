"""Tests the way from `data.source` to images, of every source and without a network."""

from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from PIL import Image

from distrib.data import selection
from distrib.data.config import DataConfig
from distrib.data.sources import sources, synthetic
from distrib.errors import BadInput
from tests.distrib.data.sources.fake_cifar10 import PER_FILE, downloads, point_at


def config(root: Path, **values: Any) -> DataConfig:
    return DataConfig(root=str(root), **values)


def test_a_root_that_the_system_refuses(tmp_path: Path) -> None:
    """A name too long stands for all errors of stat, such as a folder without permission."""
    chosen, why = sources.choose(config(tmp_path / ("x" * 300), download=False))
    assert chosen == "synthetic"
    assert "and data.download = false; give" in why
    assert "quickly" not in why


def test_cifar10_in_another_size(small_cifar10: Path) -> None:
    asked = config(small_cifar10, train_images=25, image_size=48)
    data, same = sources.load(asked, "cifar10"), sources.load(config(small_cifar10, train_images=25), "cifar10")
    assert data.train.images.shape == (25, 48, 48, 3)
    assert data.test.images.shape == (PER_FILE, 48, 48, 3)
    assert torch.equal(data.train.images[:, 0, 0], same.train.images[:, 0, 0]), "each image is of one colour"
    assert torch.equal(data.train.labels, same.train.labels)
    assert (data.notes, same.notes) == (("images of 32 x 32 pixels are resized to 48 x 48",), ())


@pytest.mark.parametrize("source", ["synthetic", "cifar10", "folder:/data/birds"])
def test_a_source_that_was_asked_for_is_taken(tmp_path: Path, source: str) -> None:
    assert sources.choose(config(tmp_path, source=source)) == (source, "")


@pytest.mark.parametrize("download", [True, False])
def test_auto_takes_cifar10_from_the_disk(small_cifar10: Path, download: bool) -> None:
    source, why = sources.choose(config(small_cifar10, download=download))
    assert source == "cifar10"
    assert str(small_cifar10) in why


def test_auto_downloads_cifar10(tmp_path: Path, silent_server: int, monkeypatch: pytest.MonkeyPatch) -> None:
    point_at(silent_server, monkeypatch)
    downloads("folder.mkdir(); (folder / 'batches.meta').touch()", monkeypatch)
    source, why = sources.choose(config(tmp_path))
    assert source == "cifar10"
    assert "downloaded" in why
    assert str(tmp_path) in why


def test_auto_without_download_tries_none(tmp_path: Path, silent_server: int, monkeypatch: pytest.MonkeyPatch) -> None:
    point_at(silent_server, monkeypatch)
    downloads("folder.mkdir(); (folder / 'batches.meta').touch()", monkeypatch)
    assert sources.choose(config(tmp_path, download=False))[0] == "synthetic"
    assert list(tmp_path.iterdir()) == []


def test_auto_offline_draws_images_and_says_why(
    tmp_path: Path, closed_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    point_at(closed_port, monkeypatch)
    source, why = sources.choose(config(tmp_path / "root"))
    assert source == "synthetic"
    for words in ("synthetic", str(tmp_path / "root"), "--data.source folder:PATH"):
        assert words in why


def test_synthetic_draws_as_many_as_asked_for(tmp_path: Path) -> None:
    data = sources.load(config(tmp_path, train_images=40, test_images=20), "synthetic")
    assert (len(data.train), len(data.test)) == (40, 20)
    assert data.classes == synthetic.CLASSES
    assert torch.bincount(data.train.labels).tolist() == [4] * 10


@pytest.mark.parametrize("key", ["image_column", "label_column"])
@pytest.mark.parametrize("source", ["synthetic", "folder:/birds", "npz:/birds.npz"])
def test_a_column_of_what_has_none(tmp_path: Path, key: str, source: str) -> None:
    with pytest.raises(BadInput, match=rf"data\.{key} = x: only parquet:PATH and hf:OWNER/NAME have columns"):
        sources.load(config(tmp_path, **{key: "x"}), source)


def test_arrays_are_cut_to_size(tmp_path: Path) -> None:
    images, labels = numpy.zeros((6, 32, 32), numpy.uint8), numpy.arange(6) % 2
    numpy.savez(tmp_path / "a.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)
    data = sources.load(config(tmp_path, train_images=3), f"npz:{tmp_path / 'a.npz'}")
    assert (len(data.train), len(data.test)) == (3, 6)


def test_cifar10_is_cut_to_size(small_cifar10: Path) -> None:
    data = sources.load(config(small_cifar10, train_images=50), "cifar10")
    assert (len(data.train), len(data.test)) == (50, PER_FILE)


def test_a_folder_is_cut_to_size_evenly(tmp_path: Path) -> None:
    root = tmp_path / "birds"
    for cls in ("owl", "wren"):
        for split, count in (("train", 6), ("test", 2)):
            (root / split / cls).mkdir(parents=True)
            for i in range(count):
                Image.new("RGB", (8, 8), (i, i, i)).save(root / split / cls / f"{i}.png")
    wanted = config(tmp_path / "cache", source=f"folder:{root}", train_images=4)
    data = sources.load(wanted, sources.choose(wanted)[0])
    assert data.classes == ("owl", "wren")
    assert torch.bincount(data.train.labels).tolist() == [2, 2]
    assert len(data.test) == 4
    assert list((tmp_path / "cache").iterdir()), "decoded images are kept under data.root"


def test_a_folder_may_be_given_from_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(BadInput, match="no such folder") as caught:
        sources.load(config(tmp_path), "folder:~/birds")
    assert str(tmp_path / "birds") in str(caught.value)


@pytest.mark.parametrize("count", [1, 8, 9])
def test_fewer_images_than_classes(tmp_path: Path, count: int) -> None:
    few = config(tmp_path, train_images=count, test_images=10)
    with pytest.raises(BadInput, match=rf"data\.train_images = {count} leaves {count} .*10 classes.*one image a class"):
        sources.load(few, "synthetic")


def test_a_small_test_set_is_one(tmp_path: Path) -> None:
    assert len(sources.load(config(tmp_path, train_images=10, test_images=2), "synthetic").test) == 2


def test_a_source_with_fewer_images_than_classes_is_named(tmp_path: Path) -> None:
    """Nobody set data.train_images."""
    images = numpy.zeros((2, 8, 8, 3), dtype=numpy.uint8)
    numpy.savez(
        tmp_path / "few.npz",
        train_images=images, train_labels=[0, 2], test_images=images, test_labels=[0, 1], classes=['a', 'b', 'c'],
    )  # fmt: skip
    source = f"npz:{tmp_path / 'few.npz'}"
    with pytest.raises(BadInput, match=r"^data\.source = npz:.* has 2 images to train 3 classes"):
        sources.load(config(tmp_path), source)


def test_the_cache_is_root_or_the_users_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert DataConfig().cache == tmp_path / ".cache" / "twinstep"
    assert DataConfig(root="~/data").cache == tmp_path / "data"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert DataConfig().cache == tmp_path / "xdg" / "twinstep"
    assert DataConfig(root="/data").cache == Path("/data")
    for ignored in ("", "cache"):
        monkeypatch.setenv("XDG_CACHE_HOME", ignored)
        assert DataConfig().cache == tmp_path / ".cache" / "twinstep"


def test_a_user_without_a_home_is_to_name_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    nobody: dict[int, object] = {}
    monkeypatch.setattr("pwd.getpwuid", nobody.__getitem__)
    with pytest.raises(BadInput, match=r"data\.root = none means .* no home directory: set data\.root"):
        _ = DataConfig().cache
    assert DataConfig(root="/data").cache == Path("/data")


def test_more_drawn_images_than_memory_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selection, "memory", lambda: 8 * 10**9)
    config = DataConfig(source="synthetic", train_images=10**7)
    with pytest.raises(BadInput, match=r"synthetic: 10,000,000 training .* take 30\.8 GB, more than half of the 8 GB"):
        sources.load(config, "synthetic")
