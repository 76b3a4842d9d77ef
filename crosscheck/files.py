"""Files that are either the old ones or the new ones, never half of each; and patience with a disk that is busy."""

import contextlib
import errno
import os
import time
from collections.abc import Callable
from pathlib import Path
from secrets import token_hex
from typing import TypeVar

T = TypeVar("T")

TRANSIENT = (
    *(errno.EBUSY, errno.EAGAIN, errno.EINTR, errno.ESTALE),
    *(errno.ENFILE, errno.EMFILE, errno.ENOMEM),
)
"""Errors that may pass by themselves: what met one of them is tried again."""
_PAUSES = (0.05, 0.2, 1.0)  # seconds between tries


def retry_transient(path: Path, work: Callable[[], T]) -> T:
    """Return what `work` returns. After an error that may pass by itself it is tried again, a few times in all.

    So `work` must bear to be repeated. Raises OSError, which names `path`: a failed write or sync does not say whose.
    """
    for pause in (*_PAUSES, None):
        try:
            return work()
        except OSError as error:
            if pause is None or error.errno not in TRANSIENT:
                error.strerror = error.strerror or str(error)
                error.filename = str(path)
                raise
            time.sleep(pause)
    raise AssertionError("the last try returns or raises")


def write_whole(path: Path, data: bytes, *, shared: bool = False) -> None:
    """Write, sync, rename, sync; whatever fails on the way leaves a whole file. Raises OSError, which names `path`.

    After an error that may pass by itself it is tried again, a few times in all. `shared`: other processes may write the same
    file at the same moment; each then puts a whole one in its place. What a killed process leaves unfinished of a file that is
    not shared, the next one overwrites.
    """
    unfinished = path.with_name(f".{token_hex(8)}" if shared else f".{path.name}")
    retry_transient(path, lambda: _write_whole(path, data, unfinished))


def _write_whole(path: Path, data: bytes, unfinished: Path) -> None:
    try:
        with unfinished.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
        sync(path.parent)
    except OSError:
        with contextlib.suppress(OSError):
            unfinished.unlink()
        raise


def sync(path: Path) -> None:
    """Make what was written to this file, or renamed in this folder, survive a power cut, where folders can be opened."""
    if os.name != "posix":
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
