"""Loads a folder of image files, PATH/train/<class>/*.jpg and PATH/test/<class>/*.jpg, which are decoded once into a cache.

The cache is one safetensors file, keyed by every file's name, size, and times of change (`image_cache.state_of`).
"""

import hashlib
import json
import os
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torchvision.datasets.folder import IMG_EXTENSIONS

from distrib.data.decoding import image_cache
from distrib.data.decoding.decoder import decode
from distrib.data.decoding.image import LARGEST_FILE
from distrib.data.decoding.image_cache import Decoded
from distrib.data.images import SIZE, Dataset, Split
from distrib.data.selection import ALL, Selection
from distrib.data.walk import walk
from distrib.errors import BadInput
from distrib.files import DISK_BROKEN, Unfit
from distrib.text import listed

_FORMAT = "twinstep-images-3"
Taken = Mapping[str, Sequence[tuple[int, Path]]]
"""The images of each split that a run takes, with their labels."""
_TOLD = 5  # files that are named, of those that are left out


def load(path: Path, cache: Path, selection: Selection = ALL) -> Dataset:
    """Return the images in a folder.

    Raises BadInput for a folder that is missing or empty, or that has one class, an image that does not decode, or too many; and
    OSError.
    """
    left_out: list[Path] = []
    train, test = _listing(path, ("train",), left_out), _listing(path, ("test", "val"), left_out)
    if set(train) != set(test):
        odd = ", ".join(sorted(set(train) ^ set(test)))
        raise BadInput(f"data.source = folder:{path}: these classes are in only one of the two splits: {odd}")
    classes = tuple(sorted(train))
    if len(train) < 2:
        raise BadInput(
            f"data.source = folder:{path}: there is one class only ({', '.join(classes)}); "
            "a classifier needs at least two folders in train/ and test/"
        )
    ordered = {
        split: [(label, image) for label, name in enumerate(classes) for image in images[name]]
        for split, images in (("train", train), ("test", test))
    }
    chosen = selection.of(f"folder:{path}", {split: len(members) for split, members in ordered.items()})
    taken = {split: [ordered[split][position] for position in positions] for split, positions in chosen.items()}
    counts, size = {split: len(members) for split, members in taken.items()}, selection.image_size
    key = _key(path, classes, taken, size)
    decoded = image_cache.through(cache, key, counts, size, lambda: _decode(path, taken, size))
    splits = {
        split: Split(decoded.images[split], torch.tensor([label for label, _ in members]))
        for split, members in taken.items()
    }
    return Dataset(f"folder {path}", classes, **splits, notes=(*decoded.notes(size), *_left_out(left_out)))


def _decode(path: Path, taken: Taken, size: int) -> Decoded:
    files = [image for members in taken.values() for _, image in members]
    images, sizes = decode(files, size=size, place=f"the folder (data.source = folder:{path})")
    return Decoded.cut(images, {split: len(members) for split, members in taken.items()}, sizes)


def _left_out(paths: Sequence[Path]) -> list[str]:
    """Say what lies in the folder and is not used: it may be meant to be."""
    if not paths:
        return []
    kinds = ", ".join(IMG_EXTENSIONS)
    why = f"because what is read are {kinds} files in the folder of a class, and none that are hidden"
    return [f"left out, {why}: {listed(paths, _TOLD)}"]


def _listing(path: Path, splits: tuple[str, ...], left_out: list[Path]) -> dict[str, list[Path]]:
    """Return the image files of each class by its name, sorted, without classes that have no image.

    What is none of a class's images is appended to `left_out`.
    """
    said = f"data.source = folder:{path}"
    try:
        if not path.is_dir():
            raise BadInput(f"{said}: there is no such folder")
        root = next((path / split for split in splits if (path / split).is_dir()), None)
        if root is None:
            wanted = " or ".join(f"{split}/" for split in splits)
            raise BadInput(f"{said}: it has no folder {wanted}; expected PATH/train/<class>/ and PATH/test/<class>/")
        found: dict[str, list[Path]] = {}
        for entry in sorted(root.iterdir()):
            others: list[Path] = []
            if not _hidden(entry.name) and entry.is_dir() and (files := image_files(entry, others)):
                found[entry.name] = files
                left_out += others
            else:
                left_out.append(entry)
    except OSError as error:
        if error.errno in DISK_BROKEN:
            raise
        raise BadInput(f"{said}: {error.filename} cannot be read: {error.strerror}") from None
    if not found:
        raise BadInput(
            f"{said}: {root} holds no images; expected {root}/<class>/ with {', '.join(IMG_EXTENSIONS)} files"
        )
    return found


def image_files(folder: Path, left_out: list[Path] | None = None) -> list[Path]:
    """Return what is called an image in the folder and below it, sorted; all other files are appended to `left_out`.

    Links to folders are followed, each folder once.
    Hidden files and folders are left out too: editors, file managers and NAS systems keep their own copies of images there.
    Raises OSError for a folder that cannot be read.
    """
    images: list[str] = []
    others: list[Path] = [] if left_out is None else left_out
    for place, folders, names in walk(folder):
        wanted = {name for name in names if name.lower().endswith(IMG_EXTENSIONS) and not _hidden(name)}
        hidden = [name for name in folders if _hidden(name)]
        folders[:] = sorted(set(folders).difference(hidden))
        images += [f"{place}{os.sep}{name}" for name in wanted]
        others += [Path(place, name) for name in (*sorted({*names} - wanted), *sorted(hidden))]
    # The order of paths, which is that of their parts; comparing paths themselves takes a second for 60,000 of them.
    return [Path(image) for image in sorted(images, key=lambda image: image.split(os.sep))]  # noqa: PTH206


def _hidden(name: str) -> bool:
    return name.startswith((".", "@"))


def _key(path: Path, classes: tuple[str, ...], taken: Taken, size: int) -> str:
    """Return a name for the cache of these images.

    Raises BadInput if some are no files, or very large ones. It names them and, as all are to be known at once, also those that
    do not decode.
    """
    digest = hashlib.sha256(f"{_FORMAT} {path.resolve()}".encode("utf-8", "surrogateescape"))
    within = len(str(path / "_")) - 1
    problems: list[str] = []
    files: list[Path] = []
    for members in taken.values():
        for label, file in members:
            try:
                facts = _facts(file)
            except Unfit as error:
                problems.append(f"image {file} {error}")
            else:
                files.append(file)
                words = [classes[label], str(file)[within:], *image_cache.state_of(facts)]
                digest.update(json.dumps(words).encode())
    if problems:
        decode(files, problems, place=f"the folder (data.source = folder:{path})")
    if size != SIZE:
        digest.update(str(size).encode())
    return digest.hexdigest()[:24]


def _facts(file: Path) -> os.stat_result:
    """Return what the system says of an image file. Raises Unfit, and OSError for a disk that breaks."""
    try:
        facts = file.stat()
    except OSError as error:
        if error.errno in DISK_BROKEN:
            raise
        dangling = f"is a link to {file.readlink()}, which is not there" if file.is_symlink() else ""
        raise Unfit(dangling or f"cannot be read ({error.strerror})") from None
    if not stat.S_ISREG(facts.st_mode):
        raise Unfit("is no regular file")
    if facts.st_size > LARGEST_FILE:
        raise Unfit(f"has {facts.st_size} bytes, and at most {LARGEST_FILE} are read")
    return facts
