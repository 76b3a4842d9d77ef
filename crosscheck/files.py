"""Files that are either the old ones or the new ones, never half of each."""

import contextlib
import os
from pathlib import Path


def write_whole(path: Path, data: bytes) -> None:
    """Write, sync, rename, sync; whatever fails on the way leaves a whole file. Raises OSError, which names `path`."""
    unfinished = path.with_name(f".{path.name}")
    try:
        with unfinished.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
        sync_folder(path.parent)
    except OSError as error:
        error.filename = str(path)  # a failed write or sync does not say whose
        with contextlib.suppress(OSError):
            unfinished.unlink()
        raise


def sync_folder(path: Path) -> None:
    """Make renames in this folder survive a power cut, where folders can be opened."""
    if os.name != "posix":
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
