"""Checkpoint folders on disk: written whole or not at all, verified before use, oldest dropped last.

    checkpoints/step-00000390/
        manifest.json          format, step, every file's size and sha256, the values that are not tensors
        model.safetensors      optimizer.safetensors      ema.safetensors (with training.ema)

A folder is built under a temporary name and renamed when every byte is on the disk, so a folder
with the right name is complete; the hashes tell what happened to it afterwards.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file  # pyright: ignore[reportUnknownVariableType] (typed with a bare PathLike)
from torch import Tensor

from distrib.errors import BadInput
from distrib.files import sync_folder, write_json

FORMAT = "twinstep-checkpoint"
VERSION = 1
_MANIFEST = "manifest.json"


class Damaged(Exception):
    """This checkpoint cannot be used; the message says which part and why."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint whose hashes were right when it was opened."""

    path: Path
    step: int
    values: Mapping[str, Any]
    files: tuple[str, ...]

    def tensors(self, name: str) -> dict[str, Tensor]:
        """The tensors of one part, on the CPU; no part of that name gives none."""
        file = f"{name}.safetensors"
        return load_file(self.path / file) if file in self.files else {}


def save(
    folder: Path, step: int, tensors: Mapping[str, Mapping[str, Tensor]], values: Mapping[str, Any], *, keep: int
) -> Path:
    """Write one checkpoint and then drop all but the newest `keep`. Raises BadInput when the disk refuses."""
    target = folder / f"step-{step:08d}"
    building: Path | None = None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        building = Path(mkdtemp(dir=folder, prefix=".building-"))
        files: dict[str, dict[str, Any]] = {}
        for name, part in tensors.items():
            path = building / f"{name}.safetensors"
            save_file({key: tensor.contiguous() for key, tensor in part.items()}, path)
            _sync(path)
            files[path.name] = {"bytes": path.stat().st_size, "sha256": _sha256(path)}
        manifest = {"format": FORMAT, "version": VERSION, "step": step, "files": files, "values": dict(values)}
        write_json(building / _MANIFEST, manifest)
        sync_folder(building)
        building.chmod(0o755)
        if target.exists():  # a resumed run reached the step again, or the old one was damaged
            replaced = Path(mkdtemp(dir=folder, prefix=".replaced-"))
            target.rename(replaced / target.name)
        building.rename(target)
        sync_folder(folder)
    except (OSError, SafetensorError) as error:
        if building is not None:
            shutil.rmtree(building, ignore_errors=True)
        raise BadInput(
            f"checkpoint {target} could not be written ({error}): free space or choose another output.dir; "
            "earlier checkpoints are untouched, so the same command continues from the newest one"
        ) from None
    _drop_old(folder, keep)
    return target


def candidates(folder: Path) -> list[Path]:
    """Checkpoint folders, newest first; not yet opened."""
    found = [p for p in folder.glob("step-*") if p.name.removeprefix("step-").isdecimal()] if folder.is_dir() else []
    return sorted(found, key=lambda p: int(p.name.removeprefix("step-")), reverse=True)


def newest_valid(folder: Path) -> tuple[Checkpoint | None, list[str]]:
    """The newest checkpoint that verifies, and a line for each one passed over."""
    passed: list[str] = []
    for path in candidates(folder):
        try:
            return open_checkpoint(path), passed
        except Damaged as error:
            passed.append(f"checkpoint {path} skipped: {error}")
    return None, passed


def open_checkpoint(path: Path) -> Checkpoint:
    """Read the manifest and verify every file. Raises Damaged."""
    try:
        manifest = json.loads((path / _MANIFEST).read_text(encoding="utf-8"))
    except OSError as error:
        raise Damaged(f"{_MANIFEST} cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError):
        raise Damaged(f"{_MANIFEST} is not JSON") from None
    try:
        if manifest["format"] != FORMAT or manifest["version"] != VERSION:
            raise Damaged(
                f"it is {manifest['format']} version {manifest['version']}; this program reads {FORMAT} {VERSION}"
            )
        for name, facts in manifest["files"].items():
            _verify(path, name, facts)
        return Checkpoint(path, int(manifest["step"]), dict(manifest["values"]), tuple(manifest["files"]))
    except (KeyError, TypeError, AttributeError, ValueError):
        raise Damaged(f"{_MANIFEST} lacks what a manifest holds") from None


def _verify(path: Path, name: str, facts: Mapping[str, Any]) -> None:
    if Path(name).name != name:
        raise Damaged(f"{_MANIFEST} names a file outside the checkpoint: {name!r}")
    file = path / name
    try:
        size = file.stat().st_size
        if size != facts["bytes"]:
            raise Damaged(f"{name} has {size} bytes where the manifest says {facts['bytes']}")
        if _sha256(file) != facts["sha256"]:
            raise Damaged(f"{name} does not have the sha256 in the manifest: its bytes changed")
    except OSError as error:
        raise Damaged(f"{name} cannot be read ({error.strerror})") from None


def _drop_old(folder: Path, keep: int) -> None:
    """Leftovers of killed saves go too: only one process writes here."""
    for path in [*candidates(folder)[keep:], *folder.glob(".building-*"), *folder.glob(".replaced-*")]:
        shutil.rmtree(path, ignore_errors=True)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
