"""Files that are either the old ones or the new ones, never half of each."""

import contextlib
import errno
import json
import os
from collections.abc import Generator
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

from distrib.errors import BadInput

NEEDS_USER = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM),
    *(errno.ENOENT, errno.ENOTDIR),
)
"""Errors of a disk that somebody has to mend first: it is full, or the path cannot be written."""
DISK_BROKEN = (errno.EIO, errno.ESTALE, errno.ETIMEDOUT)
"""Errors of a disk, or of the server it is on, that breaks. It may be well again at the next start."""


@contextlib.contextmanager
def replacing(path: Path) -> Generator[Path]:
    """Give a new file beside `path` to write to. When it is written, it is synced and replaces `path`.

    Whatever fails leaves the old file, and nothing beside it. Only this user may read the new file, unless its mode is
    changed. Raises OSError.
    """
    with NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}-", delete=False) as file:
        new = Path(file.name)
    try:
        yield new
        sync(new)
        os.replace(new, path)
    except BaseException:
        with contextlib.suppress(OSError):
            new.unlink()
        raise


def write_atomically(path: Path, text: str) -> None:
    """Replace `path` by `text`, for all to read; whatever fails on the way leaves the old file. Raises OSError."""
    with replacing(path) as new:
        new.write_text(text, encoding="utf-8")
        new.chmod(0o644)


def expand_path(text: str, key: str) -> Path:
    """Return the path that `key` gives, with `~` and `~name` expanded. Raises BadInput for one that no system takes."""
    try:
        path = Path(text).expanduser()
    except RuntimeError as error:  # no such user
        raise BadInput(f"{key} = {text}: {error}; give the whole path") from None
    if "\0" in text:
        raise BadInput(f"{key} = {text!r} holds a NUL character, which no path can")
    return path


def write_json(path: Path, value: Any) -> None:
    write_atomically(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """Return what a JSON file holds. Raises OSError, or ValueError for what is not JSON."""
    return json.loads(path.read_text(encoding="utf-8"))


def sync(path: Path) -> None:
    """Make what was written to this file, or what was renamed in this folder, survive a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
