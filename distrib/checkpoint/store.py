"""Checkpoint folders on disk: written whole or not at all, read back, verified before use, oldest dropped last.

    checkpoints/step-00000390/
        manifest.json          format, step, every file's size and sha256, the values that are not tensors
        model.safetensors      optimizer.safetensors      ema.safetensors (with training.ema)

A folder is built under a temporary name and renamed when every byte is on the disk and has been read back
from there, so a folder with the right name is complete; the hashes tell what happened to it afterwards.
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file  # pyright: ignore[reportUnknownVariableType] (typed with a bare PathLike)
from torch import Tensor

from distrib.errors import BadInput
from distrib.files import DISK_BROKEN, sync, write_json

FORMAT = "twinstep-checkpoint"
VERSION = 1
_MANIFEST = "manifest.json"
_OLD = ".old"
_NAME = re.compile(r"step-\d+(\.old)?")


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
        """Return the tensors of one part, on the CPU; none if there is no part of that name. Raises BadInput."""
        file = f"{name}.safetensors"
        if file not in self.files:
            return {}
        try:
            return load_file(self.path / file)
        except (OSError, SafetensorError) as error:
            raise BadInput(f"checkpoint {self.path}: {file} is not a safetensors file ({error})") from None


def save(
    folder: Path, step: int, tensors: Mapping[str, Mapping[str, Tensor]], values: Mapping[str, Any], *, keep: int
) -> Path:
    """Write one checkpoint, read it back, and only then drop all but the newest `keep`.

    A checkpoint of the same step may be there already, if the run started from an earlier one because that one could not
    be read. A network disk may have failed to read it for a moment only, so it may be whole, and the only one there is.
    Therefore it is not removed but renamed to `step-N.old`, which `candidates` lists, until the new one has its name:
    a process that is killed in between, or a rename that the disk refuses, loses nothing.

    Raises BadInput when the disk refuses, or does not return what was written; OSError when it breaks.
    """
    target = checkpoint_path(folder, step)
    old = target.with_suffix(_OLD)
    building: Path | None = None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for left in folder.glob(".building-*"):  # by a save that was killed; it may hold the space that this one needs
            shutil.rmtree(left, ignore_errors=True)
        building = Path(mkdtemp(dir=folder, prefix=".building-"))
        files: dict[str, dict[str, Any]] = {}
        for name, part in tensors.items():
            path = building / f"{name}.safetensors"
            save_file({key: tensor.contiguous() for key, tensor in part.items()}, path)
            path.chmod(0o644)  # safetensors writes private files
            files[path.name] = {"bytes": path.stat().st_size, "sha256": _sync_and_hash(path)}
        manifest = {"format": FORMAT, "version": VERSION, "step": step, "files": files, "values": dict(values)}
        write_json(building / _MANIFEST, manifest | {"sha256": _manifest_sha256(manifest)})
        sync(building)
        open_checkpoint(building)
        building.chmod(0o755)
        if target.exists():
            # Left by a save that was killed here. Had it been valid, the run would have started from it.
            shutil.rmtree(old, ignore_errors=True)
            target.rename(old)
        building.rename(target)
        sync(folder)
    except (OSError, SafetensorError, Damaged) as error:
        if building is not None:
            shutil.rmtree(building, ignore_errors=True)
        if not target.exists() and old.exists():
            old.rename(target)
        if isinstance(error, OSError) and error.errno in DISK_BROKEN:
            raise
        problem = (
            f"was written, but the disk does not return what was written ({error}): have it looked at,"
            if isinstance(error, Damaged)
            else f"could not be written ({error}): free space"
        )
        raise BadInput(
            f"checkpoint {target} {problem} or choose another output.dir; "
            "earlier checkpoints are untouched, so the same command continues from the newest one"
        ) from None
    _drop_old(folder, step, keep)
    return target


def checkpoint_path(folder: Path, step: int) -> Path:
    return folder / f"step-{step:08d}"


def candidates(folder: Path) -> list[Path]:
    """Return the checkpoint folders, newest first, without opening them. `step-N.old` comes after `step-N`."""
    found = [path for path in folder.glob("step-*") if _NAME.fullmatch(path.name)] if folder.is_dir() else []
    return sorted(found, key=lambda path: (step_of(path), path.suffix != _OLD), reverse=True)


def step_of(path: Path) -> int:
    """Return the step in a candidate's name."""
    return int(path.stem.removeprefix("step-"))


def newest_valid(folder: Path) -> tuple[Checkpoint | None, list[str]]:
    """Return the newest checkpoint that verifies, and a line for each one passed over."""
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
        if manifest.pop("sha256") != _manifest_sha256(manifest):
            raise Damaged(f"{_MANIFEST} does not have the sha256 that it states: its text changed")
        for name, facts in manifest["files"].items():
            _verify(path, name, facts)
        return Checkpoint(path, int(manifest["step"]), dict(manifest["values"]), tuple(manifest["files"]))
    except (KeyError, TypeError, AttributeError, ValueError, OverflowError):
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


def _drop_old(folder: Path, step: int, keep: int) -> None:
    """Keep the newest `keep` up to `step`. Later ones were passed over as damaged: they neither count nor go.

    What a killed save was replacing goes too: only one process writes here.
    """
    up_to_now = [path for path in candidates(folder) if step_of(path) <= step and path.suffix != _OLD]
    for path in [*up_to_now[keep:], *folder.glob(f"step-*{_OLD}")]:
        shutil.rmtree(path, ignore_errors=True)


def _manifest_sha256(manifest: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync_and_hash(path: Path) -> str:
    """Return the sha256 of the file, sync it, and drop it from the page cache, so that the next reader reads the disk."""
    with path.open("rb") as file, ThreadPoolExecutor(max_workers=1) as helper:
        digest = helper.submit(_sha256, path)  # neither of the two waits for the other
        os.fsync(file.fileno())
        found = digest.result()
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return found
