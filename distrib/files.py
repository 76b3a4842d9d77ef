"""Files that are either the old ones or the new ones, never half of each; and files of a user that are read with limits.

Whatever a run reads is opened here: a pipe, a device or a file that never ends is refused before a byte of it is read.
"""

import contextlib
import errno
import json
import math
import os
import stat
from collections.abc import Generator, Sequence
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any, BinaryIO, cast

from crosscheck.files import TRANSIENT, retry_transient, sync
from distrib.errors import BadInput

NEEDS_USER = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOENT, errno.ENOTDIR),
    *(errno.EISDIR, errno.EEXIST, errno.ENOTEMPTY, errno.ELOOP, errno.ENAMETOOLONG, errno.ENXIO),
)
"""Errors that somebody has to mend first: the disk is full, or the path cannot be read or written."""
DISK_BROKEN = (*TRANSIENT, errno.EIO, errno.ETIMEDOUT)
"""Errors of a disk that breaks, of its server, or of a machine that lacks something. It may be well again at the next start."""

_LARGEST_JSON = 8 * 2**20  # bytes; the trainer's own files have thousands


class Unfit(ValueError):
    """A file that is not read: a pipe, a device, a folder, or one that is too large. The message says what it is."""


def open_regular(path: Path, most: int) -> BinaryIO:
    """Open a regular file of at most `most` bytes for reading. Raises OSError, or Unfit for everything else."""
    # O_NONBLOCK: to open a pipe for reading would wait for its writer.
    handle = retry_transient(path, lambda: os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC))
    try:
        facts = os.fstat(handle)
        if not stat.S_ISREG(facts.st_mode):
            raise Unfit(f"it is {_kind(facts.st_mode)}, not a regular file")
        if facts.st_size > most:
            raise Unfit(f"it has {facts.st_size} bytes, and at most {most} are read")
    except BaseException:
        os.close(handle)
        raise
    return os.fdopen(handle, "rb")


def read(path: Path, most: int) -> bytes:
    """Return what a regular file of at most `most` bytes holds. Raises OSError or Unfit."""

    def whole() -> bytes:
        with open_regular(path, most) as file:
            return file.read(most + 1)  # a file of /proc says that it is empty, and one may grow while it is read

    content = retry_transient(path, whole)
    if len(content) > most:
        raise Unfit(f"it has more than the {most} bytes that are read")
    return content


def read_json(path: Path, most: int = _LARGEST_JSON) -> Any:
    """Return what a JSON file holds. Raises OSError, or ValueError for a file that is not JSON."""
    try:
        return json.loads(read(path, most).decode("utf-8"))
    except RecursionError:
        raise ValueError("its values are nested too deeply") from None


@contextlib.contextmanager
def replacing(path: Path) -> Generator[Path]:
    """Give a new file beside `path` to write to. When it is written, it is synced and replaces `path`.

    Whatever fails leaves the old file, and nothing beside it. Only this user may read the new file, unless its mode is
    changed. Raises OSError, also for a device or a pipe at `path`, which a file must not replace.
    """
    refuse_special(path)
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
    data = text.encode("utf-8")

    def write() -> None:
        with replacing(path) as new:
            new.write_bytes(data)
            new.chmod(0o644)

    retry_transient(path, write)


def refuse_special(path: Path) -> None:
    """Raise OSError if `path` is a device, a pipe or a socket. A file that is missing is fine, and so is a folder."""
    with contextlib.suppress(FileNotFoundError):
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
            raise OSError(errno.EEXIST, f"{_kind(mode)} is in its place", str(path))


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
    """Replace `path` by the value as JSON, as `to_json` returns it. Raises OSError."""
    text = to_json(value, indent=2, ensure_ascii=False)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:  # it holds a path that is no UTF-8
        text = to_json(value, indent=2)
    write_atomically(path, text + "\n")


def to_json(value: Any, *, indent: int | None = None, ensure_ascii: bool = True) -> str:
    """Return the value as JSON, with null for every number that is not finite: JSON has no NaN and no infinity."""
    return json.dumps(_finite(value), indent=indent, ensure_ascii=ensure_ascii, allow_nan=False)


def _finite(value: Any) -> Any:
    match value:
        case float():
            return value if math.isfinite(value) else None
        case dict():
            return {key: _finite(each) for key, each in cast("dict[Any, Any]", value).items()}
        case list() | tuple():
            return [_finite(each) for each in cast("Sequence[Any]", value)]
        case _:
            return value


def _kind(mode: int) -> str:
    kinds = {stat.S_IFIFO: "a pipe", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device", stat.S_IFDIR: "a folder"}
    return kinds.get(stat.S_IFMT(mode), "a socket")
