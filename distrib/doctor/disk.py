"""Looks at the disk of the runs, whether it takes files, how fast, and whether it has locks; and at the one of the data."""

import errno
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from distrib.data.config import DataConfig
from distrib.data.sources import cifar10
from distrib.doctor.finding import Finding, fails, note, ok
from distrib.errors import BadInput
from distrib.files import sync
from distrib.job import lock

_WRITTEN = 64 * 2**20  # bytes
_LITTLE = 2**30  # bytes: three checkpoints and a trace of the article's network take a hundredth of it


def look(folder: Path) -> Iterator[Finding]:
    """Yield findings on the disk on which `folder`, where runs are to be, is or would be."""
    try:
        there = _nearest(folder)
        with tempfile.TemporaryDirectory(dir=there, prefix=".doctor-") as place:
            yield from _writes(folder, Path(place))
    except OSError as error:
        why = error.strerror or str(error)
        yield fails(
            "disk", f"{folder} cannot be written ({why})", "free space there, or choose another place with --output.dir"
        )
    yield _data(DataConfig())


def _nearest(folder: Path) -> Path:
    """Return the folder, or the nearest one above it that is there. Raises NotADirectoryError for a file in its place."""
    found = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    if not found.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(found))
    return found


def _writes(folder: Path, place: Path) -> Iterator[Finding]:
    began = time.monotonic()
    (place / "file").write_bytes(os.urandom(2**20) * (_WRITTEN // 2**20))
    sync(place / "file")
    os.replace(place / "file", place / "renamed")
    seconds = time.monotonic() - began
    free = shutil.disk_usage(place).free
    told = f"{folder}: {_WRITTEN / 2**20 / seconds:.0f} MiB/s written and synced, {free / 2**30:.1f} GiB free"
    if free < _LITTLE:
        yield note("disk", told, "a run of a larger network may fill it")
    else:
        yield ok("disk", told)
    said: list[str] = []
    try:
        os.close(lock.acquire(place, said.append, {}, wait=0))
    except BadInput as error:
        yield fails("locks", str(error), "choose another disk for the runs")
        return
    yield note("locks", said[0]) if said else ok("locks", "two runs cannot take one folder")


def _data(config: DataConfig) -> Finding:
    try:
        cache = config.cache
    except BadInput as error:
        return fails("data", str(error), "or give --data.source synthetic, which keeps nothing")
    if cifar10.on_disk(cache):
        return ok("data", f"CIFAR-10 is in {cache}")
    return note(
        "data",
        f"CIFAR-10 is not in {cache}: a run downloads it, or draws images",
        "on a machine without a network give --data.root, or --data.source folder:PATH",
    )
