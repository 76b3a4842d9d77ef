"""Files that are either the old ones or the new ones, never half of each."""

import contextlib
import os
from pathlib import Path


def write_whole(path: Path, data: bytes) -> None:
    """Write, sync, rename; whatever fails on the way leaves the old file. Raises OSError, which names `path`."""
    unfinished = path.with_name(f".{path.name}")
    try:
        with unfinished.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    except OSError as error:
        error.filename = str(path)  # a failed write or sync does not say whose
        with contextlib.suppress(OSError):
            unfinished.unlink()
        raise
