"""Images in .npz files and folders of .npy files: what is read, and what is refused."""

import os
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from distrib.data import selection
from distrib.data.images import Dataset
from distrib.data.selection import Selection
from distrib.data.sources import folder
from distrib.data.sources.arrays import arrays
from distrib.errors import BadInput

Arrays = dict[str, NDArray[Any]]
RNG = numpy.random.default_rng(0)
KERAS = {"train_images": "x_train", "train_labels": "y_train", "test_images": "x_test", "test_labels": "y_test"}


def pixels(*shape: int) -> NDArray[Any]:
    return RNG.integers(0, 256, shape, dtype=numpy.uint8)


def birds(*shape: int) -> Arrays:
    """Six training and four test images of two classes."""
    return {
        "train_images": pixels(6, *shape),
        "train_labels": numpy.arange(6) % 2,
        "test_images": pixels(4, *shape),
        "test_labels": numpy.arange(4) % 2,
    }


def save(place: Path, content: Arrays) -> Path:
    """Save as a .npz file or, if the name has no suffix, as a folder of .npy files."""
    if place.suffix:
        numpy.savez_compressed(place, **content)  # pyright: ignore[reportArgumentType]
        return place
    place.mkdir()
    for name, array in content.items():
        numpy.save(place / f"{name}.npy", array)
    return place


def loaded(content: Arrays, folder: Path, name: str = "birds.npz") -> Dataset:
    return arrays.load(save(folder / name, content), folder / "cache")


def refused(path: Path, cache: Path, chosen: Selection = selection.ALL) -> str:
    with pytest.raises(BadInput) as caught:
        arrays.load(path, cache, chosen)
    return str(caught.value)


@pytest.mark.parametrize("name", ["birds.npz", "birds"])
@pytest.mark.parametrize("keras", [False, True])
def test_images_of_the_right_size_are_untouched(tmp_path: Path, name: str, keras: bool) -> None:
    content = birds(32, 32, 3)
    named = {KERAS[key] if keras else key: value for key, value in content.items()}
    data = loaded(named, tmp_path, name)
    assert numpy.array_equal(data.train.images.numpy(), content["train_images"])
    assert numpy.array_equal(data.test.images.numpy(), content["test_images"])
    assert (data.train.labels.tolist(), data.test.labels.tolist()) == ([0, 1, 0, 1, 0, 1], [0, 1, 0, 1])
    assert (data.train.labels.dtype, data.classes, data.notes) == (torch.int64, ("0", "1"), ())
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    ("shape", "axes"),
    [
        ((3, 32, 32), (0, 2, 3, 1)),
        ((32, 32), None),
        ((1, 32, 32), (0, 2, 3, 1)),
        ((32, 32, 1), (0, 1, 2, 3)),
    ],
)
def test_layouts(tmp_path: Path, shape: tuple[int, ...], axes: tuple[int, ...] | None) -> None:
    content = birds(*shape)
    images = content["train_images"]
    seen = images[..., None] if axes is None else images.transpose(axes)
    data = loaded(content, tmp_path)
    assert numpy.array_equal(data.train.images.numpy(), numpy.broadcast_to(seen, (6, 32, 32, 3)))


@pytest.mark.parametrize("shape", [(40, 20, 3), (3, 40, 20), (28, 28), (1, 7, 300)])
def test_other_sizes_become_what_they_become_in_a_folder(tmp_path: Path, shape: tuple[int, ...]) -> None:
    content = birds(*shape)
    data = loaded(content, tmp_path)
    for split in ("train", "test"):
        for number, image in enumerate(content[f"{split}_images"]):
            seen = image.transpose(1, 2, 0) if shape[0] == 3 else image.squeeze()
            file = tmp_path / f"files/{split}/{number % 2}/{number}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(seen).save(file)
    of_files = folder.load(tmp_path / "files", tmp_path / "cache")
    in_order = data.train.labels.argsort(stable=True)
    assert torch.equal(data.train.images[in_order], of_files.train.images)
    assert data.notes == of_files.notes != ()


def test_labels_that_memory_does_not_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path / "birds.npz", birds(32, 32))
    monkeypatch.setattr(arrays, "memory", lambda: 4 * 47)
    assert "array train_labels holds 6 labels of int64, which take more than a quarter" in refused(path, tmp_path)


@pytest.mark.parametrize("folder", [False, True])
def test_labels_are_in_memory_once(tmp_path: Path, folder: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside their eight bytes are masks of one each, and no second copy."""
    monkeypatch.setattr("distrib.data.sources.arrays.npy._READ", 2**17)
    monkeypatch.setattr("distrib.data.labels._SORTED", 2**14)
    count = 2**19
    content: Arrays = {
        "train_images": numpy.zeros((count, 1, 1), dtype=numpy.uint8),
        "train_labels": numpy.arange(count) % 2,
        "test_images": numpy.zeros((2, 1, 1), dtype=numpy.uint8),
        "test_labels": numpy.arange(2),
    }
    path = save(tmp_path / ("birds" if folder else "birds.npz"), content)
    del content
    tracemalloc.start()
    data = arrays.load(path, tmp_path / "cache", Selection(train=2, test=2))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert data.train.labels.tolist() == [0, 0]
    assert peak < 1.6 * 8 * count


@pytest.mark.parametrize("name", ["birds", "birds.npz"])
def test_the_cache_of_resized_images_is_of_these_bytes(tmp_path: Path, name: str) -> None:
    """The file that is changed keeps its size and the time of its data, as one that is unpacked may."""
    content = birds(28, 28)
    path, cache = tmp_path / name, tmp_path / "cache"
    file = path if path.suffix else save(path, content) / "train_images.npy"

    def write() -> None:
        if path.suffix:
            numpy.savez(path, **content)  # pyright: ignore[reportArgumentType]
        else:
            numpy.save(file, content["train_images"])

    write()
    first = arrays.load(path, cache)
    assert arrays.load(path, cache).fingerprint() == first.fingerprint()
    assert len(list(cache.iterdir())) == 1
    before = file.stat()
    content["train_images"] = 255 - content["train_images"]
    write()
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert file.stat().st_size == before.st_size
    assert arrays.load(path, cache).fingerprint() != first.fingerprint()


def test_some_images_are_those_of_all(tmp_path: Path) -> None:
    content = birds(28, 28)
    path = save(tmp_path / "birds.npz", content)
    some = arrays.load(path, tmp_path / "cache", Selection(train=3, test=2))
    every = arrays.load(path, tmp_path / "cache")
    assert torch.equal(some.train.images, every.train.images[::2])
    assert torch.equal(some.test.labels, every.test.labels[::2])


def test_rows_are_read_a_few_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("distrib.data.sources.arrays.npy._READ", 2 * 3072)
    content = birds(32, 32, 3)
    path = save(tmp_path / "birds.npz", content)
    assert numpy.array_equal(arrays.load(path, tmp_path).train.images.numpy(), content["train_images"])
    one = arrays.load(path, tmp_path, Selection(train=1)).train.images.numpy()
    assert numpy.array_equal(one, content["train_images"][:1])


def test_classes_and_labels_as_keras_has_them(tmp_path: Path) -> None:
    content = birds(32, 32, 3) | {"classes": numpy.array(["owl", "wren", "kea"])}
    content["train_labels"] = content["train_labels"].astype(numpy.uint8)[:, None]
    content["test_labels"] = content["test_labels"].astype(">i4")
    data = loaded(content, tmp_path)
    assert data.classes == ("owl", "wren", "kea")
    assert data.train.labels.tolist() == [0, 1, 0, 1, 0, 1]


def test_more_images_than_memory_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path / "birds.npz", birds(32, 32, 3))
    monkeypatch.setattr(selection, "memory", lambda: 2 * 9 * 3072)
    said = refused(path, tmp_path)
    for words in (f"data.source = npz:{path}", "6 training images and 4 test images", "data.train_images", "at most 9"):
        assert words in said
    assert len(arrays.load(path, tmp_path, Selection(train=5)).train) == 5


OTHER: dict[str, tuple[Arrays, str]] = {
    "floats": (
        {"train_images": numpy.zeros((6, 32, 32, 3), numpy.float32)},
        "train_images is float32, and nothing says",
    ),
    "wide": ({"test_images": numpy.zeros((4, 32, 32, 3), numpy.int64)}, "test_images is int64: images are uint8"),
    "objects": ({"train_labels": numpy.array([None] * 6)}, "train_labels: it holds Python objects, which are never"),
    "objects as names": ({"classes": numpy.array(["a", None])}, "classes: it holds Python objects"),
    "one image": ({"test_images": pixels(32, 32)}, "test_images has the shape (32, 32): expected is (N, H, W, 3)"),
    "alpha": ({"train_images": pixels(6, 32, 32, 4)}, "train_images has the shape (6, 32, 32, 4): expected is"),
    "either end": ({"train_images": pixels(6, 3, 32, 3)}, "either end may be the channels"),
    "no image": ({"train_images": pixels(0, 32, 32, 3)}, "(0, 32, 32, 3): there are to be 1 to"),
    "no pixel": ({"train_images": pixels(6, 0, 32, 3)}, "of 1 to 67108864 pixels"),
    "Fortran": ({"train_images": numpy.asfortranarray(pixels(6, 32, 32, 3))}, "numpy.ascontiguousarray"),
    "a number": ({"train_images": numpy.array(3)}, "single number"),
    "too few labels": ({"train_labels": numpy.arange(5) % 2}, "train_labels has the shape (5,): expected is (6,)"),
    "one-hot": ({"test_labels": numpy.eye(4, dtype=int)}, "test_labels has the shape (4, 4): expected is (4,)"),
    "labels as floats": ({"test_labels": numpy.zeros(4)}, "test_labels is float64: labels are whole numbers"),
    "labels as text": ({"train_labels": numpy.array(["owl"] * 6)}, "train_labels is <U3: labels are whole numbers"),
    "negative": ({"train_labels": numpy.array([0, 1, -1, 0, 1, 0])}, "the label -1 in row 2: labels count from 0"),
    "from one": (
        {"train_labels": numpy.arange(6) % 2 + 1},
        "holds the label 2 and no 0: labels count from 0, without gaps",
    ),
    "huge": ({"train_labels": numpy.array([0, 1, 2**63, 0, 1, 0], numpy.uint64)}, "and no 2"),
    "unseen": ({"test_labels": numpy.arange(4)}, "test_labels holds the label 2 in row 2: no training image has it"),
    "one class": ({"train_labels": numpy.zeros(6, int), "test_labels": numpy.zeros(4, int)}, "1 classes; a classifier"),
    "too few names": ({"classes": numpy.array(["owl"])}, "the label 1 in row 1: there are 1 names of classes"),
    "names as numbers": ({"classes": numpy.arange(2)}, "classes is int64 of the shape (2,): expected is a name"),
    "a name twice": ({"classes": numpy.array(["owl", "owl"])}, "two classes have the same name"),
    "both names": ({"x_train": pixels(6, 32, 32, 3)}, "holds train_images and x_train, which mean the same"),
}


@pytest.mark.parametrize("name", ["birds.npz", "birds"])
@pytest.mark.parametrize("what", list(OTHER))
def test_arrays_that_are_refused(tmp_path: Path, what: str, name: str) -> None:
    content, words = OTHER[what]
    path = save(tmp_path / name, birds(32, 32, 3) | content)
    said = refused(path, tmp_path / "cache")
    assert said.startswith(f"data.source = npz:{path}")
    assert words in said


def test_a_missing_array(tmp_path: Path) -> None:
    content = birds(32, 32, 3)
    del content["test_labels"]
    said = refused(save(tmp_path / "birds.npz", content), tmp_path)
    assert "holds no array test_labels or y_test, only test_images, train_images, train_labels: expected are" in said


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 1
    path.write_bytes(data)


def lies(path: Path) -> None:
    """Write a header that says a terabyte, in an archive that holds a few bytes."""
    with zipfile.ZipFile(path, "w") as packed, packed.open("x_train.npy", "w") as member:
        header = {"descr": "|u1", "fortran_order": False, "shape": (2**20, 2**10, 2**10)}
        numpy.lib.format.write_array_header_1_0(member, header)  # pyright: ignore[reportArgumentType]


def odd_header(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as packed:
        text = b"(" * 5000 + b"\n"
        packed.writestr("x_train.npy", b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text)


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "cut": (cut, "it is no whole .npz file"),
    "a bit flipped": (flipped, "it is damaged ("),
    "text": (lambda path: path.write_text("x"), "it is no whole .npz file"),
    "a header that lies": (lies, "its header says 1099511627776 bytes, and 0 are there"),
    "a header that is no header": (odd_header, "it is no array that numpy.save wrote"),
    "gone": (Path.unlink, "it cannot be read (No such file or directory)"),
}


@pytest.mark.parametrize("what", list(DAMAGE))
def test_a_file_that_is_damaged(tmp_path: Path, what: str) -> None:
    path = save(tmp_path / "birds.npz", birds(32, 32, 3))
    harm, words = DAMAGE[what]
    harm(path)
    said = refused(path, tmp_path / "cache")
    assert said.startswith(f"data.source = npz:{path}")
    assert words in said


def test_an_array_file_that_is_cut(tmp_path: Path) -> None:
    path = save(tmp_path / "birds", birds(32, 32, 3))
    cut(path / "test_images.npy")
    assert "array test_images: its header says 12288 bytes, and 12188 are there: copy or save it again" in refused(
        path, tmp_path
    )
