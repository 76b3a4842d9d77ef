"""A folder of image files, PATH/train/<class>/*.jpg and PATH/test/<class>/*.jpg, decoded once into a cache.

The cache is one safetensors file, keyed by every file's name, size and time of change.
"""

import hashlib
import json
import os
import stat
from pathlib import Path

import torch
from torchvision.datasets.folder import IMG_EXTENSIONS

from distrib.data import image_cache
from distrib.data.decoding import LARGEST_FILE, decode
from distrib.data.images import Dataset, Split
from distrib.errors import BadInput
from distrib.files import DISK_BROKEN

_FORMAT = "twinstep-images-2"


def load(path: Path, cache: Path) -> Dataset:
    """Raises BadInput for a folder that is missing, empty, has one class or an image that does not decode; OSError."""
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
    ordered = {
        split: [(label, image) for label, name in enumerate(classes) for image in images[name]]
        for split, images in (("train", train), ("test", test))
    }
    images = image_cache.read(file, {split: len(members) for split, members in ordered.items()})
    if images is None:
        images = {split: decode([image for _, image in members]) for split, members in ordered.items()}
        image_cache.write(file, images)
    labels = {split: torch.tensor([label for label, _ in members]) for split, members in ordered.items()}
    return Dataset(
        f"folder {path}", classes, Split(images["train"], labels["train"]), Split(images["test"], labels["test"])
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
        found = {folder.name: image_files(folder) for folder in sorted(root.iterdir()) if folder.is_dir()}
    except OSError as error:
        if error.errno in DISK_BROKEN:
            raise
        raise BadInput(f"{said}: {error.filename} cannot be read: {error.strerror}") from None
    found = {name: files for name, files in found.items() if files}
    if not found:
        raise BadInput(
            f"{said}: {root} holds no images; expected {root}/<class>/ with {', '.join(IMG_EXTENSIONS)} files"
        )
    return found


def image_files(folder: Path) -> list[Path]:
    """Return what is called an image in the folder and below it, sorted. Raises OSError for a folder that cannot be read."""

    def fail(error: OSError) -> None:
        raise error

    walked = os.walk(folder, onerror=fail)
    found = [Path(place) / name for place, _, names in walked for name in names]
    return sorted(file for file in found if file.suffix.lower() in IMG_EXTENSIONS)


def _key(path: Path, *splits: dict[str, list[Path]]) -> str:
    """Return a name for the cache of these images. Raises BadInput for one that is no file, or a very large one."""
    digest = hashlib.sha256(f"{_FORMAT} {path.resolve()}".encode("utf-8", "surrogateescape"))
    for split in splits:
        for name, files in sorted(split.items()):
            for file in files:
                facts = _facts(file)
                digest.update(
                    json.dumps([name, str(file.relative_to(path)), facts.st_size, facts.st_mtime_ns]).encode()
                )
    return digest.hexdigest()[:24]


def _facts(file: Path) -> os.stat_result:
    try:
        facts = file.stat()
    except OSError as error:
        if error.errno in DISK_BROKEN:
            raise
        problem = f"cannot be read ({error.strerror})"
    else:
        if stat.S_ISREG(facts.st_mode) and facts.st_size <= LARGEST_FILE:
            return facts
        regular = stat.S_ISREG(facts.st_mode)
        problem = f"has {facts.st_size} bytes, and at most {LARGEST_FILE} are read" if regular else "is no regular file"
    raise BadInput(f"image {file} {problem}: repair it, or take it out of the folder")
