"""A folder of image files, PATH/train/<class>/*.jpg and PATH/test/<class>/*.jpg, decoded once into a cache.

The cache is one safetensors file, keyed by every file's name, size and time of change.
"""

import hashlib
import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy
import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file  # pyright: ignore[reportUnknownVariableType] (typed with a bare PathLike)
from torch import Tensor
from torchvision.datasets.folder import IMG_EXTENSIONS

from distrib.data.images import SIZE, Dataset, Split
from distrib.errors import BadInput
from distrib.files import replacing

_FORMAT = "twinstep-images-1"
_TENSORS = ("train_images", "train_labels", "test_images", "test_labels")


def load(path: Path, cache: Path) -> Dataset:
    """Raises BadInput for a folder that is missing, empty, has one class or an image that does not decode."""
    train, test = _listing(path, ("train",)), _listing(path, ("test", "val"))
    if set(train) != set(test):
        odd = ", ".join(sorted(set(train) ^ set(test)))
        raise BadInput(f"data.source = folder:{path}: these classes are in only one of the two splits: {odd}")
    classes = tuple(sorted(train))
    if len(train) < 2:
        raise BadInput(
            f"data.source = folder:{path}: there is one class only ({', '.join(classes)}); "
            "a classifier needs at least two folders in train/ and test/"
        )
    file = cache / f"images-{_key(path, train, test)}.safetensors"
    tensors = _read(file)
    if tensors is None:
        tensors = dict[str, Tensor]()
        for name, files in (("train", train), ("test", test)):
            ordered = [(label, f) for label, cls in enumerate(classes) for f in files[cls]]
            tensors[f"{name}_images"] = _decode([f for _, f in ordered])
            tensors[f"{name}_labels"] = torch.tensor([label for label, _ in ordered])
        _write(file, tensors)
    return Dataset(
        f"folder {path}",
        classes,
        Split(tensors["train_images"], tensors["train_labels"]),
        Split(tensors["test_images"], tensors["test_labels"]),
    )


def _listing(path: Path, splits: tuple[str, ...]) -> dict[str, list[Path]]:
    """Return the image files of each class by its name, sorted, without classes that have no image."""
    said = f"data.source = folder:{path}"
    try:
        if not path.is_dir():
            raise BadInput(f"{said}: there is no such folder")
        root = next((path / split for split in splits if (path / split).is_dir()), None)
        if root is None:
            wanted = " or ".join(f"{split}/" for split in splits)
            raise BadInput(f"{said}: it has no folder {wanted}; expected PATH/train/<class>/ and PATH/test/<class>/")
        found = {
            folder.name: sorted(f for f in folder.rglob("*") if f.suffix.lower() in IMG_EXTENSIONS and f.is_file())
            for folder in sorted(root.iterdir())
            if folder.is_dir()
        }
    except OSError as error:
        raise BadInput(f"{said}: {error.filename} cannot be read: {error.strerror}") from None
    found = {name: files for name, files in found.items() if files}
    if not found:
        raise BadInput(
            f"{said}: {root} holds no images; expected {root}/<class>/ with {', '.join(IMG_EXTENSIONS)} files"
        )
    return found


def _decode(files: Sequence[Path]) -> Tensor:
    images = numpy.empty((len(files), SIZE, SIZE, 3), dtype=numpy.uint8)

    def decode(position: int) -> None:
        file = files[position]
        try:
            with Image.open(file) as image:
                pixels = _eight_bit(image).convert("RGB")
                if pixels.size != (SIZE, SIZE):
                    pixels = pixels.resize((SIZE, SIZE), Image.Resampling.BILINEAR)
                images[position] = numpy.asarray(pixels)
        except Exception as error:  # PIL raises whatever its decoders raise; all of it means this file
            raise BadInput(
                f"image {file} cannot be decoded ({error}): repair it, or take it out of the folder"
            ) from None

    with ThreadPoolExecutor(os.cpu_count()) as pool:  # PIL decodes outside the interpreter lock
        for _ in pool.map(decode, range(len(files)), chunksize=256):
            pass
    return torch.from_numpy(images)


def _eight_bit(image: Image.Image) -> Image.Image:
    """Return the image with sixteen-bit grey scaled down to eight; Pillow's own conversion would clip it to white."""
    if not image.mode.startswith("I"):
        return image
    return Image.fromarray((numpy.asarray(image, dtype=numpy.float32) / 257.0).clip(0, 255).astype(numpy.uint8))


def _key(path: Path, *splits: dict[str, list[Path]]) -> str:
    digest = hashlib.sha256(f"{_FORMAT} {path.resolve()}".encode())
    for split in splits:
        for name, files in sorted(split.items()):
            for file in files:
                try:
                    facts = file.stat()
                except OSError as error:
                    raise BadInput(
                        f"image {file} cannot be read ({error.strerror}): repair it, or take it out of the folder"
                    ) from None
                digest.update(
                    json.dumps([name, str(file.relative_to(path)), facts.st_size, facts.st_mtime_ns]).encode()
                )
    return digest.hexdigest()[:24]


def _read(file: Path) -> dict[str, Tensor] | None:
    try:
        stored = load_file(file)
        return {name: stored[name].clone() for name in _TENSORS}  # a copy: the file's may be unaligned
    except (OSError, SafetensorError, KeyError):
        return None  # absent or damaged: decode again


def _write(file: Path, tensors: dict[str, Tensor]) -> None:
    """Write the cache, whole or not at all. One that cannot be written costs time, not the run."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with replacing(file) as new:
            save_file(tensors, new)
    except (OSError, SafetensorError):
        return
