"""Keeps decoded images in one safetensors file, which is used only if every byte of it is right."""

import contextlib
import hashlib
import json
import os
import re
import stat
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file  # pyright: ignore[reportUnknownVariableType] (typed with a bare PathLike)
from torch import Tensor

from distrib.data.images import SIZE, Sizes, as_bytes
from distrib.files import open_regular, replacing

_LARGEST_HEADER = 2**20  # bytes
_ABANDONED = 3600  # seconds since the last change
_SIZES = re.compile(r"(\d{1,9})x(\d{1,9}) (\d{1,9})x(\d{1,9})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Decoded:
    """Images of some splits, by the name of the split, as (N, H, W, C) uint8."""

    images: Mapping[str, Tensor]
    sizes: Sizes
    """The sizes of the image files."""
    uncached: str = ""
    """Why the cache could not be written; empty if it was, or was not needed."""

    @classmethod
    def cut(cls, images: Tensor, counts: Mapping[str, int], sizes: Sizes) -> "Decoded":
        """Cut `images`, those of all splits one behind the other, into those of each split; `counts` says how many it has."""
        return cls(dict(zip(counts, torch.split(images, list(counts.values())), strict=True)), sizes)

    def notes(self, size: int) -> tuple[str, ...]:
        """Return what the owner of images that are seen as size x size should know, in sentences."""
        return (*self.sizes.notes(size), *([self.uncached] if self.uncached else []))


def state_of(facts: os.stat_result) -> tuple[int, int, int]:
    """Return what is another for a file that was changed, or put in the place of another: its size and the times of both.

    The time of change of what it holds is not enough: archives often give one time to all their files. That of its entry in the
    file system is set by every rename, and also by a chmod, after which the images are decoded once more.
    """
    return facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns


def key(format_: str, path: Path, facts: Sequence[Any], counts: Mapping[str, int], size: int) -> str:
    """Return a name for the cached images of a source.

    `facts` are what tells its files from others: with other files the name is another.
    """
    words = [format_, os.fsencode(path.resolve()).hex(), *facts, counts, *([size] if size != SIZE else [])]
    return hashlib.sha256(json.dumps(words).encode()).hexdigest()[:24]


def through(cache: Path, key: str, counts: Mapping[str, int], size: int, decode: Callable[[], Decoded]) -> Decoded:
    """Return the images of each split, of which there must be so many, from the cache, or decoded and then kept there."""
    file = cache / f"images-{key}.safetensors"
    decoded = read(file, counts, size)
    if decoded is None:
        decoded = decode()
        if why := write(file, decoded):
            decoded = replace(
                decoded, uncached=f"images cannot be cached in {cache} ({why}), so every start decodes them"
            )
    return decoded


def read(file: Path, counts: Mapping[str, int], size: int) -> Decoded | None:
    """Return the images of each split, of which there must be so many, of size x size pixels.

    Returns None for a file that is absent, damaged or no cache of these images: they are decoded again.
    """
    expected = {split: ("U8", (count, size, size, 3)) for split, count in counts.items()}
    try:
        open_regular(file, _LARGEST_HEADER + sum(counts.values()) * size * size * 3).close()
        opened: Any = safe_open(file, framework="pt")
        with opened as stored:
            keys: list[str] = stored.keys()
            slices = {key: stored.get_slice(key) for key in keys}
            if {key: (part.get_dtype(), tuple(part.get_shape())) for key, part in slices.items()} != expected:
                return None
            # Tensors that safetensors has loaded may be unaligned.
            images: dict[str, Tensor] = {split: stored.get_tensor(split).clone() for split in counts}
            metadata: dict[str, str] = stored.metadata() or {}
    except (OSError, ValueError, SafetensorError):
        return None
    sizes = _SIZES.fullmatch(metadata.get("sizes", ""))
    if sizes is None or metadata.get("sha256") != _sha256(images):
        return None
    w, h, width, height = map(int, sizes.groups())
    return Decoded(images, Sizes((w, h), (width, height)))


def write(file: Path, decoded: Decoded) -> str:
    """Write the cache, whole or not at all, and return why that failed, or nothing.

    One that cannot be written costs time, not the run.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        _remove_left(file.parent)
        with replacing(file) as new:
            sizes = " ".join(f"{width}x{height}" for width, height in decoded.sizes)
            save_file(dict(decoded.images), new, {"sha256": _sha256(decoded.images), "sizes": sizes})
            new.chmod(_mode_of_a_new_file(file.parent))  # both put it where only this user can read it
    except (OSError, SafetensorError) as error:
        return getattr(error, "strerror", None) or str(error)
    return ""


def _remove_left(folder: Path) -> None:
    """Remove what runs that were killed had written of a cache. One that is being written changes all the time.

    Raises OSError.
    """
    for left in folder.glob(".images-*.safetensors-*"):
        with contextlib.suppress(FileNotFoundError):
            if time.time() - left.stat().st_mtime > _ABANDONED:
                left.unlink()


def _mode_of_a_new_file(folder: Path) -> int:
    """Return who may read and write a file that this user makes here, as the umask says. Raises OSError."""
    with tempfile.TemporaryDirectory(dir=folder, prefix=".mode-") as place:
        handle = os.open(Path(place) / "file", os.O_WRONLY | os.O_CREAT, 0o666)
        try:
            return stat.S_IMODE(os.fstat(handle).st_mode)
        finally:
            os.close(handle)


def _sha256(images: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for _, tensor in sorted(images.items()):
        digest.update(as_bytes(tensor))
    return digest.hexdigest()
