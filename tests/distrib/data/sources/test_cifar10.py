"""Tests CIFAR-10 as torchvision loads it: on disk, as an archive, and downloaded, without a network."""

import hashlib
import shutil
import tarfile
import time
from pathlib import Path

import pytest
import torch
from torchvision.datasets import CIFAR10

from distrib.data.config import DataConfig
from distrib.data.sources import cifar10, sources
from distrib.errors import BadInput
from tests.distrib.data.sources.fake_cifar10 import CLASSES, PER_FILE, downloads, point_at


def test_on_disk(small_cifar10: Path, tmp_path: Path) -> None:
    assert cifar10.on_disk(small_cifar10)
    assert not cifar10.on_disk(tmp_path)
    assert not cifar10.on_disk(tmp_path / "nowhere")
    (tmp_path / "file").write_text("")
    assert not cifar10.on_disk(tmp_path / "file")


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


def bad_cifar10(root: Path, *, download: bool = False) -> str:
    with pytest.raises(BadInput) as caught:
        cifar10.load(root, download=download)
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
    folder = small_cifar10 / cifar10.ARCHIVE_FOLDER
    (folder / "test_batch").unlink()
    assert f"remove {folder} to have it downloaded again, or put" in bad_cifar10(small_cifar10, download=True)
    assert f"remove {folder}, and put" in bad_cifar10(small_cifar10)
    (small_cifar10 / cifar10.ARCHIVE).touch()
    assert f"remove {folder} to have it extracted from {cifar10.ARCHIVE} again, or put" in bad_cifar10(small_cifar10)


def test_half_a_folder_beside_the_archive(small_cifar10: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder is as `tar` leaves it when it is stopped."""
    archived(small_cifar10, monkeypatch)
    folder = small_cifar10 / cifar10.ARCHIVE_FOLDER
    folder.mkdir()
    (folder / "data_batch_1").write_bytes(b"half")
    assert f"remove {folder} to have it extracted from {cifar10.ARCHIVE} again" in bad_cifar10(small_cifar10)
