"""Writes checkpoint folders whole or not at all, reads them back, verifies them before use, and drops the oldest last.

    checkpoints/step-00000390/
        manifest.json          format, step, every file's size and sha256, the values that are not tensors
        model.safetensors      optimizer.safetensors      ema.safetensors (with training.ema)

A folder is built under a temporary name and renamed when every byte is on the disk and has been read back
from there, so a folder with the right name is complete; the hashes tell what happened to it afterwards.
"""

import contextlib
import hashlib
import json
import os
import re
import reprlib
import shutil
from collections.abc import Generator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp
from typing import Annotated, Any, NamedTuple, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file  # pyright: ignore[reportUnknownVariableType] (typed with a bare PathLike)
from torch import Tensor

from distrib.errors import BadInput
from distrib.files import NEEDS_USER, Unfit, open_regular, read_json, retry_transient, sync, write_json

FORMAT = "twinstep-checkpoint"
VERSION = 1
_MANIFEST = "manifest.json"
_OLD = ".old"
_NAME = re.compile(r"step-\d{1,15}(\.old)?")
_LARGEST_PART = 2**36  # bytes; a part of more is not read at all
_OS_ERROR = re.compile(r"\(os error (\d+)\)")  # as Rust shows one


class Damaged(Exception):
    """This checkpoint cannot be used; the message says which part and why."""


class Unreadable(Damaged):
    """This checkpoint may be whole, but the system does not let this process read it."""


class Spec(NamedTuple):
    """What a file says of a tensor, such as ("F32", (64, 10)), or of one that is needed."""

    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint whose hashes were right when it was opened."""

    path: Path
    step: int
    values: Mapping[str, Any]
    files: tuple[str, ...]

    def specs(self, name: str) -> dict[str, Spec] | None:
        """Return what one part says of its tensors, without loading any; None if there is no part of that name.

        Raises BadInput.
        """
        if (file := f"{name}.safetensors") not in self.files:
            return None
        with self._reading(file) as reading:
            keys: list[str] = reading.keys()
            slices = {key: reading.get_slice(key) for key in keys}
            return {key: Spec(part.get_dtype(), tuple(part.get_shape())) for key, part in slices.items()}

    def tensors(self, name: str) -> dict[str, Tensor]:
        """Return the tensors of one part, on the CPU; none if there is no part of that name. Raises BadInput."""
        if (file := f"{name}.safetensors") not in self.files:
            return {}
        with self._reading(file) as reading:
            keys: list[str] = reading.keys()
            return {key: reading.get_tensor(key) for key in keys}

    @contextlib.contextmanager
    def _reading(self, file: str) -> Generator[Any]:
        try:
            opened: Any = safe_open(self.path / file, framework="pt")
            with opened as reading:
                yield reading
        except OSError as error:
            raise OSError(error.errno, error.strerror or str(error), str(self.path / file)) from error
        except SafetensorError as error:
            raise BadInput(f"checkpoint {self.path}: {file} is not a safetensors file ({error})") from None


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class _File(_Strict):
    """What a manifest says of a file."""

    bytes: Annotated[int, Field(ge=0, le=_LARGEST_PART)]
    sha256: str


class _Manifest(_Strict):
    """What a manifest holds, once its format is known and its hash is right."""

    format: str
    version: int
    step: Annotated[int, Field(ge=0, lt=10**15)]
    files: dict[Annotated[str, Field(pattern=r"^[a-z]+\.safetensors$")], _File]
    values: dict[str, Any]


def save(
    folder: Path,
    step: int,
    tensors: Mapping[str, Mapping[str, Tensor]],
    values: Mapping[str, Any],
    *,
    keep: int,
    keep_step: int | None = None,
) -> Path:
    """Write one checkpoint, read it back, and only then drop all but the newest `keep` and the one after step `keep_step`.

    The folder that holds `folder` must be there: a run whose folder was moved away must not begin another one in its place.

    A checkpoint of the same step may be there already, if the run started from an earlier one because that one could not
    be read. A network disk may have failed to read it for a moment only, so it may be whole, and the only one there is.
    Therefore it is not removed but renamed to `step-N.old`, which `candidates` lists, until the new one has its name:
    a process that is killed in between, or a rename that the disk refuses, loses nothing.

    Raises BadInput when the disk refuses, or does not return what was written; OSError when it breaks.
    """
    target = checkpoint_path(folder, step)
    try:
        retry_transient(target, lambda: _write(target, step, tensors, values))
    except (OSError, SafetensorError, Damaged) as error:
        if isinstance(error, OSError) and error.errno not in NEEDS_USER:
            raise
        problem = (
            f"was written, but the disk does not return what was written ({error}): have it looked at,"
            if isinstance(error, Damaged)
            else f"could not be written ({error.strerror if isinstance(error, OSError) else error}): free space"
        )
        again = (
            "earlier checkpoints are untouched, so the same command continues from the newest one"
            if any(folder.glob("step-*"))
            else "there is no earlier checkpoint, so the same command begins the run again"
        )
        raise BadInput(f"checkpoint {target} {problem} or choose another output.dir; {again}") from None
    _drop_old(folder, step, keep, keep_step)
    return target


def _write(target: Path, step: int, tensors: Mapping[str, Mapping[str, Tensor]], values: Mapping[str, Any]) -> None:
    """Write the checkpoint beside its place, read it back and rename it. Whatever fails leaves what was there."""
    folder, old = target.parent, target.with_suffix(_OLD)
    folder.mkdir(exist_ok=True)
    for left in folder.glob(".building-*"):  # by a save that was killed; it may hold the space that this one needs
        shutil.rmtree(left, ignore_errors=True)
    building = Path(mkdtemp(dir=folder, prefix=".building-"))
    try:
        files: dict[str, dict[str, Any]] = {}
        for name, part in tensors.items():
            path = building / f"{name}.safetensors"
            _save_file({key: tensor.contiguous() for key, tensor in part.items()}, path)
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
    except Exception:
        shutil.rmtree(building, ignore_errors=True)
        if not target.exists() and old.exists():
            old.rename(target)
        raise


def _save_file(tensors: dict[str, Tensor], path: Path) -> None:
    """Write a safetensors file. Raises OSError, which the library only mentions in the words of its own error."""
    try:
        save_file(tensors, path)
    except SafetensorError as error:
        if found := _OS_ERROR.search(str(error)):
            raise OSError(int(found[1]), os.strerror(int(found[1])), str(path)) from error
        raise


def checkpoint_path(folder: Path, step: int) -> Path:
    return folder / f"step-{step:08d}"


def candidates(folder: Path) -> list[Path]:
    """Return the checkpoint folders, newest first, without opening them. `step-N.old` comes after `step-N`.

    Raises OSError for a folder that is there and cannot be listed: nobody knows then what it holds.
    """
    try:
        there = retry_transient(folder, lambda: list(folder.iterdir()))
    except FileNotFoundError:
        return []
    found = [path for path in there if _NAME.fullmatch(path.name)]
    return sorted(found, key=lambda path: (step_of(path), path.suffix != _OLD), reverse=True)


def step_of(path: Path) -> int:
    """Return the step in a candidate's name."""
    return int(path.stem.removeprefix("step-"))


def newest_valid(folder: Path) -> tuple[Checkpoint | None, list[str]]:
    """Return the newest checkpoint that verifies, and a line for each one passed over.

    Raises OSError if the disk breaks, and BadInput if this process may not read one of those that could be the newest valid
    one, and no older one is valid: a run that began anew would overwrite what they stand for.
    """
    passed: list[str] = []
    unreadable: list[str] = []
    for path in candidates(folder):
        try:
            return open_checkpoint(path), passed
        except Damaged as error:
            passed.append(f"checkpoint {path} skipped: {error}")
            if isinstance(error, Unreadable):
                unreadable.append(f"{path}: {error}")
    if unreadable:
        raise BadInput(
            f"checkpoints of this run are there and cannot be read ({'; '.join(unreadable)}): let this user read them, or "
            "choose another output.dir to start anew"
        )
    return None, passed


def open_checkpoint(path: Path) -> Checkpoint:
    """Read the manifest and verify every file. Raises Damaged, or OSError for a disk that breaks."""
    with _damage(_MANIFEST):
        manifest = read_json(path / _MANIFEST)
        if not isinstance(manifest, dict):
            raise Damaged(f"{_MANIFEST} lacks what a manifest holds")
        facts = cast(dict[str, Any], manifest)
        if facts.get("format") != FORMAT or facts.get("version") != VERSION:
            found = reprlib.repr(facts.get("format")), reprlib.repr(facts.get("version"))
            raise Damaged(f"it is {found[0]} version {found[1]}; this program reads {FORMAT} {VERSION}")
        if "sha256" not in facts:
            raise Damaged(f"{_MANIFEST} lacks what a manifest holds (its own sha256)")
        if facts.pop("sha256") != _manifest_sha256(facts):
            raise Damaged(f"{_MANIFEST} does not have the sha256 that it states: its text changed")
    for name in cast(dict[str, Any], facts["files"]) if isinstance(facts.get("files"), dict) else ():
        if Path(name).name != name:
            raise Damaged(f"{_MANIFEST} names a file outside the checkpoint: {name!r}")
    try:
        checked = _Manifest.model_validate(facts)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise Damaged(f"{_MANIFEST} lacks what a manifest holds ({where}: {first['msg']})") from None
    if _NAME.fullmatch(path.name) and step_of(path) != checked.step:
        raise Damaged(f"{_MANIFEST} is of step {checked.step}, and the folder is {path.name}")
    for name, file in checked.files.items():
        _verify(path / name, file)
    return Checkpoint(path, checked.step, checked.values, tuple(checked.files))


def _verify(file: Path, facts: _File) -> None:
    """Raise Damaged unless the file is of this size and hash."""
    with _damage(file.name):
        with open_regular(file, _LARGEST_PART) as opened:
            size = os.fstat(opened.fileno()).st_size
        if size != facts.bytes:
            raise Damaged(f"{file.name} has {size} bytes where the manifest says {facts.bytes}")
        if retry_transient(file, lambda: _sha256(file)) != facts.sha256:
            raise Damaged(f"{file.name} does not have the sha256 in the manifest: its bytes changed")


@contextlib.contextmanager
def _damage(name: str) -> Generator[None]:
    """Raise what a file that cannot be read means for its checkpoint. A disk that breaks is no damage: it may be well again."""
    try:
        yield
    except Unfit as error:
        raise Damaged(f"{name} cannot be read: {error}") from None
    except (ValueError, RecursionError):
        raise Damaged(f"{name} is not JSON") from None
    except OSError as error:
        if error.errno not in NEEDS_USER:
            raise
        kind = Unreadable if isinstance(error, PermissionError) else Damaged
        raise kind(f"{name} cannot be read ({error.strerror})") from None


def _drop_old(folder: Path, step: int, keep: int, keep_step: int | None) -> None:
    """Keep the newest `keep` up to `step`, and the one of the step `keep_step`.

    Later ones were passed over as damaged: they neither count nor go. What a killed save was replacing goes too: only one process
    writes here.
    """
    up_to_now = [path for path in candidates(folder) if step_of(path) <= step and path.suffix != _OLD]
    replaced = [path for path in candidates(folder) if path.suffix == _OLD]
    dropped = [path for path in up_to_now[keep:] if step_of(path) != keep_step]
    for path in dropped + replaced:
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
