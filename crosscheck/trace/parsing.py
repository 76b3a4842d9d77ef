"""Reading files that may be anything: what is not as expected ends in a TraceError that names the file."""

import reprlib
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

from pydantic import BaseModel, ValidationError
from pydantic_core import from_json

from crosscheck.errors import TraceError
from crosscheck.files import T, retry_transient
from crosscheck.text import count, one_line
from crosscheck.trace.format import FORMAT, VERSION, Header

Model = TypeVar("Model", bound=BaseModel)
LARGEST_JSON = 24 * 2**20  # bytes, of which each may take 33 of memory; ten thousand tensors take 4 MiB


def reading(path: Path, work: Callable[[], T]) -> T:
    """Return what `work` returns, which reads `path` and bears to be repeated: it is, after an error that may pass by itself.

    Raises TraceError in the place of an OSError.
    """
    try:
        return retry_transient(path, work)
    except OSError as error:
        raise TraceError(f"{path} cannot be read ({error.strerror or error})") from None


def expect_file(path: Path, most: int) -> int:
    """Return the size in bytes.

    Raises TraceError for a pipe, a device or a folder, which may be read without end or not at all, and for a large file.

    A file of holes has its full size: it takes no disk, but as much time and memory as any other.
    """
    status = reading(path, path.stat)
    if not stat.S_ISREG(status.st_mode):
        raise TraceError(f"{path} cannot be read (it is no regular file)")
    if status.st_size > most:
        raise TraceError(f"{path} is larger than {most} bytes: this is not what a recorder wrote")
    return status.st_size


def text_of(path: Path) -> str:
    expect_file(path, LARGEST_JSON)
    try:
        return reading(path, lambda: path.read_text(encoding="utf-8"))
    except UnicodeDecodeError:
        raise TraceError(f"{path} is not UTF-8 text") from None


def parse(path: Path, text: str) -> Any:
    """Parse the JSON in `text`, which is of `path`. Unlike the standard library: no lone surrogates, and a bounded depth."""
    try:
        return from_json(text)
    except ValueError as error:
        raise TraceError(f"{path}: not JSON ({error})") from None


def validate(path: Path, values: Any, model: type[Model]) -> Model:
    """Return `values`, which are of `path`, as what they should be. Raises TraceError."""
    try:
        return model.model_validate(values)
    except TraceError as error:  # of a claim, which is read where it is made as well, without a file
        raise TraceError(f"{path}: {error}") from None
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = brief(".".join(map(str, first["loc"])) or "the whole")
        problems = count(error.error_count(), "problem")
        raise TraceError(f"{path}: {where}: {brief(first['msg'])} ({problems} in all)") from None


def read_header(path: Path) -> Header:
    """Return the header of a segment, which is in this file. Raises TraceError."""
    parsed = parse(path, text_of(path))
    values = cast(dict[str, Any], parsed) if isinstance(parsed, dict) else {}
    if values.get("format") != FORMAT:
        raise TraceError(f"{path}: format is {reprlib.repr(values.get('format'))}; a trace says {FORMAT!r}")
    version = values.get("version")
    if version != VERSION:
        raise TraceError(f"{path}: version is {reprlib.repr(version)}; this replayer reads version {VERSION}")
    return validate(path, values, Header)


def brief(text: str) -> str:
    """Return the start of a text of others, fit to be shown."""
    return one_line(text if len(text) <= 300 else f"{text[:300]}…")
