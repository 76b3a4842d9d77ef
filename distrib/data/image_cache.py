"""Decoded images in one safetensors file, which is used only if every byte of it is right."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file  # pyright: ignore[reportUnknownVariableType] (typed with a bare PathLike)
from torch import Tensor

from distrib.data.images import SIZE, as_bytes
from distrib.files import open_regular, replacing

_LARGEST_HEADER = 2**20  # bytes


def read(file: Path, counts: Mapping[str, int]) -> dict[str, Tensor] | None:
    """Return the images of each split, of which there must be so many.

    Returns None for a file that is absent, damaged or no cache of these images: they are decoded again.
    """
    expected = {split: ("U8", (count, SIZE, SIZE, 3)) for split, count in counts.items()}
    try:
        open_regular(file, _LARGEST_HEADER + sum(counts.values()) * SIZE * SIZE * 3).close()
        opened: Any = safe_open(file, framework="pt")
        with opened as stored:
            keys: list[str] = stored.keys()
            slices = {key: stored.get_slice(key) for key in keys}
            if {key: (part.get_dtype(), tuple(part.get_shape())) for key, part in slices.items()} != expected:
                return None
            images: dict[str, Tensor] = {
                split: stored.get_tensor(split).clone() for split in counts
            }  # may be unaligned
            metadata: dict[str, str] = stored.metadata() or {}
    except (OSError, ValueError, SafetensorError):
        return None
    return images if metadata.get("sha256") == _sha256(images) else None


def write(file: Path, images: Mapping[str, Tensor]) -> None:
    """Write the cache, whole or not at all. One that cannot be written costs time, not the run."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with replacing(file) as new:
            save_file(dict(images), new, {"sha256": _sha256(images)})
    except (OSError, SafetensorError):
        return


def _sha256(images: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for _, tensor in sorted(images.items()):
        digest.update(as_bytes(tensor))
    return digest.hexdigest()
