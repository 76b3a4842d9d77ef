"""Loads images from NumPy arrays, `data.source = npz:PATH`: uint8 images and whole numbers as labels, named as in `NAMES`."""

from dataclasses import dataclass
from pathlib import Path

import numpy
import torch
from numpy.typing import NDArray
from torch import Tensor

from distrib.data.decoding import image_cache
from distrib.data.decoding.decoder import resized
from distrib.data.decoding.image import MOST_PIXELS
from distrib.data.decoding.image_cache import Decoded
from distrib.data.images import Dataset, Sizes, Split
from distrib.data.labels import MOST_CLASSES, Labels, classes_of
from distrib.data.selection import ALL, Selection
from distrib.data.sources.arrays.files import ArrayFile, opened
from distrib.errors import BadInput
from distrib.system import memory

SPLITS = ("train", "test")
NAMES = {
    ("train", "images"): ("train_images", "x_train"),
    ("train", "labels"): ("train_labels", "y_train"),
    ("test", "images"): ("test_images", "x_test"),
    ("test", "labels"): ("test_labels", "y_test"),
}
_CLASSES = "classes"
_FORMAT = "twinstep-arrays-1"
_MOST_IMAGES = 10**8
_LONGEST_CLASS = 2**10  # bytes


@dataclass(frozen=True, slots=True)
class _Images:
    """The images of a split, before they are read."""

    name: str
    count: int
    width: int
    height: int
    axes: tuple[int, ...]
    """Where count, height, width and channels are."""

    @property
    def size(self) -> tuple[int, int]:
        return self.width, self.height


def load(path: Path, cache: Path, selection: Selection = ALL) -> Dataset:
    """Return the images in a .npz file or a folder of .npy files.

    Raises BadInput for arrays that are missing, damaged, of another kind, or too large; and OSError.
    """
    with opened(path) as file:
        images = {split: _images(file, _find(file, split, "images")) for split in SPLITS}
        size = selection.image_size
        chosen = selection.of(f"npz:{path}", {split: its.count for split, its in images.items()})
        names = {split: _find(file, split, "labels") for split in SPLITS}
        labels = {split: _labels(file, names[split], images[split]) for split in SPLITS}
        places = {split: f"{file.said}: array {names[split]}" for split in SPLITS}
        classes = classes_of(labels, places, _names(file) if _CLASSES in file.names else None)

        def decode() -> Decoded:
            pixels = {split: _decoded(file, images[split], chosen[split].numpy(), size) for split in SPLITS}
            return Decoded(pixels, Sizes.of(its.size for its in images.values()))

        if all(its.size == (size, size) for its in images.values()):
            decoded = decode()  # that is only to read them: a cache would save nothing
        else:
            counts = {split: len(positions) for split, positions in chosen.items()}
            key = image_cache.key(_FORMAT, path, file.facts, counts, size)
            decoded = image_cache.through(cache, key, counts, size, decode)
        splits = {
            split: Split(
                decoded.images[split], torch.from_numpy(labels[split][chosen[split].numpy()].astype(numpy.int64))
            )
            for split in SPLITS
        }
        return Dataset(f"arrays {path}", classes, **splits, notes=decoded.notes(size))


def _find(file: ArrayFile, split: str, kind: str) -> str:
    """Return the name of an array. Raises BadInput for one that is missing, or there under two names."""
    names = NAMES[split, kind]
    found = [name for name in names if name in file.names]
    if len(found) == 1:
        return found[0]
    if found:
        raise BadInput(f"{file.said} holds {' and '.join(found)}, which mean the same: take one of them out")
    raise BadInput(
        f"{file.said} holds no array {' or '.join(names)}, only {', '.join(file.names) or 'nothing'}: expected are "
        "train_images, train_labels, test_images and test_labels, or x_train, y_train, x_test and y_test"
    )


def _images(file: ArrayFile, name: str) -> _Images:
    """Read what the header says. Raises BadInput for what cannot be images."""
    with file.array(name) as array:
        dtype, shape = array.dtype, array.shape
    if dtype.kind == "f":
        raise file.refuse(
            name, f"is {dtype}, and nothing says which number is white: save it as uint8, 0 black, 255 white"
        )
    if dtype != numpy.uint8:
        raise file.refuse(name, f"is {dtype}: images are uint8, 0 black and 255 white")
    wanted = "expected is (N, H, W, 3), (N, 3, H, W) or, for grey, (N, H, W)"
    first, last = (len(shape) == 4 and shape[axis] in (1, 3) for axis in (1, 3))
    if not (len(shape) == 3 or first or last):
        raise file.refuse(name, f"has the shape {shape}: {wanted}")
    if first and last and shape[1:] != (1, 1, 1):
        raise file.refuse(name, f"has the shape {shape}, in which either end may be the channels: save it as (N, H, W)")
    axes = (0, 1, 2) if len(shape) == 3 else (0, 1, 2, 3) if last else (0, 2, 3, 1)
    count, height, width = (shape[axis] for axis in axes[:3])
    if not 0 < count <= _MOST_IMAGES or not 0 < height * width <= MOST_PIXELS:
        raise file.refuse(
            name, f"has the shape {shape}: there are to be 1 to {_MOST_IMAGES} images of 1 to {MOST_PIXELS} pixels"
        )
    return _Images(name, count, width, height, axes)


def _labels(file: ArrayFile, name: str, images: _Images) -> Labels:
    """Return the labels of a split, (N,). Raises BadInput."""
    with file.array(name) as array:
        if array.dtype.kind not in "iu":
            raise file.refuse(
                name, f"is {array.dtype}: labels are whole numbers from 0, with names in an array {_CLASSES}"
            )
        if array.shape not in ((images.count,), (images.count, 1)):
            raise file.refuse(
                name, f"has the shape {array.shape}: expected is ({images.count},), a number for each of {images.name}"
            )
        if images.count * array.dtype.itemsize > memory() // 4:
            raise file.refuse(
                name,
                (
                    f"holds {images.count} labels of {array.dtype}, which take more than a quarter of the memory here: save "
                    "fewer, or as uint8"
                ),
            )
        return array.whole().reshape(-1)


def _names(file: ArrayFile) -> tuple[str, ...]:
    """Return the names of the classes. Raises BadInput."""
    with file.array(_CLASSES) as array:
        if array.dtype.kind != "U" or len(array.shape) != 1:
            raise file.refuse(
                _CLASSES,
                f"is {array.dtype} of the shape {array.shape}: expected is a name for each label, as text (dtype U)",
            )
        if array.shape[0] > MOST_CLASSES or array.dtype.itemsize > _LONGEST_CLASS:
            raise file.refuse(
                _CLASSES,
                f"holds {array.shape[0]} names of {array.dtype.itemsize} bytes: at most {MOST_CLASSES} of {_LONGEST_CLASS}",
            )
        try:
            return tuple(map(str, array.whole()))
        except ValueError:  # numbers that are no character
            raise file.refuse(_CLASSES, "holds no text: save it again") from None


def _decoded(file: ArrayFile, images: _Images, positions: NDArray[numpy.int64], size: int) -> Tensor:
    """Return the images at these positions, resized to size x size, as (N, H, W, C) uint8. Raises BadInput and OSError."""
    pixels = numpy.empty((len(positions), size, size, 3), dtype=numpy.uint8)
    with file.array(images.name) as array:
        for places, rows in array.chosen(positions):
            seen = rows.transpose(images.axes)
            if images.size == (size, size):
                pixels[places] = seen if seen.ndim == 4 else seen[..., None]
            else:
                pixels[places] = resized(seen[..., 0] if seen.shape[3:] == (1,) else seen, size)
    return torch.from_numpy(pixels)
