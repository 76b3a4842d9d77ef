"""From `data.source` to images, with CIFAR-10 as torchvision loads it and without a network."""

import hashlib
import pickle
import shutil
import socket
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from PIL import Image
from torchvision.datasets import CIFAR10

from distrib.data import selection
from distrib.data.config import DataConfig
from distrib.data.sources import cifar10, sources, synthetic
from distrib.errors import BadInput

CLASSES = ["plane", "car", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
PER_FILE = 20


@pytest.fixture
def small_cifar10(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in CIFAR-10's own format with 20 images a file, whose md5 sums torchvision expects."""
    root = tmp_path / "cifar"
    (root / cifar10.ARCHIVE_FOLDER).mkdir(parents=True)

    def write(name: str, content: dict[str, Any]) -> list[str]:
        raw = pickle.dumps(content)
        (root / cifar10.ARCHIVE_FOLDER / name).write_bytes(raw)
        return [name, hashlib.md5(raw, usedforsecurity=False).hexdigest()]

    def images(name: str) -> list[str]:
        # Channel by channel, as in the archive: red 10, green 20, blue the image's number.
        pixels = numpy.repeat(numpy.array([[10, 20, 0]], dtype=numpy.uint8), PER_FILE, axis=0)
        pixels[:, 2] = numpy.arange(PER_FILE)
        return write(name, {"data": pixels.repeat(1024, axis=1), "labels": [i % 10 for i in range(PER_FILE)]})

    meta_name, meta_sum = write("batches.meta", {"label_names": CLASSES})
    monkeypatch.setattr(CIFAR10, "meta", {"filename": meta_name, "key": "label_names", "md5": meta_sum})
    monkeypatch.setattr(CIFAR10, "train_list", [images(f"data_batch_{i}") for i in range(1, 6)])
    monkeypatch.setattr(CIFAR10, "test_list", [images("test_batch")])
    return root


@pytest.fixture
def silent_server() -> Iterator[int]:
    """The port of a server that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.fixture
def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def point_at(port: int, monkeypatch: pytest.MonkeyPatch, scheme: str = "http") -> None:
    monkeypatch.setattr(CIFAR10, "url", f"{scheme}://127.0.0.1:{port}/cifar-10-python.tar.gz")


def config(root: Path, **values: Any) -> DataConfig:
    return DataConfig(root=str(root), **values)


def test_on_disk(small_cifar10: Path, tmp_path: Path) -> None:
    assert cifar10.on_disk(small_cifar10)
    assert not cifar10.on_disk(tmp_path)
    assert not cifar10.on_disk(tmp_path / "nowhere")
    (tmp_path / "file").write_text("")
    assert not cifar10.on_disk(tmp_path / "file")


def test_a_root_that_the_system_refuses(tmp_path: Path) -> None:
    """A name too long stands for all errors of stat, such as a folder without permission."""
    chosen, why = sources.choose(config(tmp_path / ("x" * 300), download=False))
    assert chosen == "synthetic"
    assert "and data.download = false; give" in why
    assert "quickly" not in why


@pytest.mark.parametrize("download", [True, False])
def test_cifar10_is_loaded_in_the_layout_of_all_sources(small_cifar10: Path, download: bool) -> None:
    data = cifar10.load(small_cifar10, download=download)
    assert data.name == "CIFAR-10"
    assert list(data.classes) == CLASSES
    for split, count in ((data.train, 5 * PER_FILE), (data.test, PER_FILE)):
        assert split.images.shape == (count, 32, 32, 3)
        assert split.images.dtype == torch.uint8
        assert split.labels.dtype == torch.int64
        assert split.labels.tolist() == [i % 10 for i in range(PER_FILE)] * (count // PER_FILE)
        assert split.images[7, 5, 6].tolist() == [10, 20, 7]


def test_cifar10_in_another_size(small_cifar10: Path) -> None:
    asked = config(small_cifar10, train_images=25, image_size=48)
    data, same = sources.load(asked, "cifar10"), sources.load(config(small_cifar10, train_images=25), "cifar10")
    assert data.train.images.shape == (25, 48, 48, 3)
    assert data.test.images.shape == (PER_FILE, 48, 48, 3)
    assert torch.equal(data.train.images[:, 0, 0], same.train.images[:, 0, 0]), "each image is of one colour"
    assert torch.equal(data.train.labels, same.train.labels)
    assert (data.notes, same.notes) == (("images of 32 x 32 pixels are resized to 48 x 48",), ())


def bad_cifar10(root: Path) -> str:
    with pytest.raises(BadInput) as caught:
        cifar10.load(root, download=False)
    return str(caught.value)


def archived(small_cifar10: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put the extracted folder into its archive, whose md5 torchvision expects then, and return the archive."""
    archive = small_cifar10 / cifar10.ARCHIVE
    with tarfile.open(archive, "w:gz") as packed:
        packed.add(small_cifar10 / cifar10.ARCHIVE_FOLDER, cifar10.ARCHIVE_FOLDER)
    shutil.rmtree(small_cifar10 / cifar10.ARCHIVE_FOLDER)
    md5 = hashlib.md5(archive.read_bytes(), usedforsecurity=False).hexdigest()
    monkeypatch.setattr(CIFAR10, "tgz_md5", md5)
    return archive


@pytest.mark.parametrize("download", [True, False])
def test_the_archive_alone_is_enough_without_a_network(
    small_cifar10: Path, silent_server: int, download: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    del silent_server  # a download would hang
    before = cifar10.load(small_cifar10, download=False)
    archive = archived(small_cifar10, monkeypatch)
    assert sources.choose(DataConfig(root=str(small_cifar10), download=download))[0] == "cifar10"
    content = archive.read_bytes()
    assert cifar10.load(small_cifar10, download=download).fingerprint() == before.fingerprint()
    assert archive.read_bytes() == content
    assert sorted(path.name for path in small_cifar10.iterdir()) == sorted([cifar10.ARCHIVE, cifar10.ARCHIVE_FOLDER])


def test_an_archive_that_is_cut_short_is_refused(small_cifar10: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = archived(small_cifar10, monkeypatch)
    archive.write_bytes(archive.read_bytes()[:-1])
    with pytest.raises(BadInput, match="is not the whole archive") as caught:
        cifar10.load(small_cifar10, download=True)
    assert str(archive) in str(caught.value)
    assert sorted(small_cifar10.iterdir()) == [archive]


def test_cifar10_that_is_not_there(tmp_path: Path) -> None:
    message = bad_cifar10(tmp_path / "nowhere")
    for words in ("data.source = cifar10", str(tmp_path / "nowhere"), "cifar-10-batches-py", "data.root", "synthetic"):
        assert words in message


@pytest.mark.parametrize("name", ["data_batch_3", "test_batch", "batches.meta"])
@pytest.mark.parametrize("damage", ["changed", "missing"])
def test_a_damaged_cifar10_is_refused_before_it_is_unpickled(small_cifar10: Path, name: str, damage: str) -> None:
    file = small_cifar10 / cifar10.ARCHIVE_FOLDER / name
    if damage == "missing":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes() + b"x")
    assert "data.source = cifar10" in bad_cifar10(small_cifar10)


def test_cifar10_below_a_regular_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert str(tmp_path / "file" / "root") in bad_cifar10(tmp_path / "file" / "root")


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_offline_is_noticed_at_once(
    tmp_path: Path, closed_port: int, monkeypatch: pytest.MonkeyPatch, scheme: str
) -> None:
    point_at(closed_port, monkeypatch, scheme)
    monkeypatch.setattr(cifar10, "_DOWNLOAD_SECONDS", 600)
    begin = time.monotonic()
    assert not cifar10.fetch_quickly(tmp_path / "root")
    assert time.monotonic() - begin < 300


def test_a_download_that_hangs_is_given_up(tmp_path: Path, silent_server: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The downloading process is sent to the silent server by a proxy setting, as it has its own copy of the address."""
    point_at(silent_server, monkeypatch)
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{silent_server}")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(cifar10, "_DOWNLOAD_SECONDS", 4)
    assert not cifar10.fetch_quickly(tmp_path / "root")
    assert list((tmp_path / "root").iterdir()) == [], "half a download was left behind"


def downloads(code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the downloading process run `code` with `folder` as what the archive unpacks to."""
    start = "import sys, pathlib; folder = pathlib.Path(sys.argv[1], 'cifar-10-batches-py'); "
    monkeypatch.setattr(cifar10, "_DOWNLOAD", start + code)


def test_a_finished_download_is_moved_into_place(
    tmp_path: Path, silent_server: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    point_at(silent_server, monkeypatch)
    downloads("folder.mkdir(); (folder / 'batches.meta').touch()", monkeypatch)
    assert cifar10.fetch_quickly(tmp_path / "root")
    assert cifar10.on_disk(tmp_path / "root")
    assert [file.name for file in (tmp_path / "root").iterdir()] == [cifar10.ARCHIVE_FOLDER]


def test_a_failed_download_leaves_nothing(tmp_path: Path, silent_server: int, monkeypatch: pytest.MonkeyPatch) -> None:
    point_at(silent_server, monkeypatch)
    downloads("folder.mkdir(); (folder / 'batches.meta').touch(); sys.exit(1)", monkeypatch)
    assert not cifar10.fetch_quickly(tmp_path / "root")
    assert list((tmp_path / "root").iterdir()) == []


def test_another_process_was_quicker(small_cifar10: Path, silent_server: int, monkeypatch: pytest.MonkeyPatch) -> None:
    point_at(silent_server, monkeypatch)
    downloads("folder.mkdir(); (folder / 'batches.meta').touch()", monkeypatch)
    assert cifar10.fetch_quickly(small_cifar10)
    assert len(cifar10.load(small_cifar10, download=False).train) == 5 * PER_FILE


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


def test_cifar10_comes_whole_or_not_at_all(
    tmp_path: Path, small_cifar10: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Starts that share the folder do not write into each other's download, and a kill leaves no half of one."""
    root = tmp_path / "shared"
    halfway = f"import shutil; shutil.copytree({str(small_cifar10 / cifar10.ARCHIVE_FOLDER)!r}, folder)"
    downloads(f"{halfway}; sys.exit('the line broke')", monkeypatch)
    with pytest.raises(BadInput, match="did not come: the line broke"):
        cifar10.load(root, download=True)
    assert list(root.iterdir()) == []
    downloads(halfway, monkeypatch)
    assert len(cifar10.load(root, download=True).train) == 5 * PER_FILE


def test_a_damaged_cifar10_says_how_to_have_it_again(small_cifar10: Path) -> None:
    (small_cifar10 / cifar10.ARCHIVE_FOLDER / "test_batch").unlink()
    assert f"remove {small_cifar10 / cifar10.ARCHIVE_FOLDER} to have it downloaded again" in bad_cifar10(small_cifar10)


def test_more_drawn_images_than_memory_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selection, "memory", lambda: 8 * 10**9)
    config = DataConfig(source="synthetic", train_images=10**7)
    with pytest.raises(BadInput, match=r"synthetic: 10000000 training .* take 30\.8 GB, more than half of the 8 GB"):
        sources.load(config, "synthetic")
