"""Reading a trace, part by part. Nothing in it is believed before it was checked; nothing in it is run."""

import contextlib
import hashlib
import itertools
import json
import re
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

import ml_dtypes
from numpy.typing import NDArray
from pydantic import BaseModel, ValidationError
from safetensors import SafetensorError, safe_open

from crosscheck.errors import TraceError
from crosscheck.trace.format import FORMAT, METADATA_KEY, PART_NAME, SEGMENT_NAME, VERSION, End, Header, Part, key

Model = TypeVar("Model", bound=BaseModel)
_DTYPES = ("float64", "float32", ml_dtypes.bfloat16.__name__, "float16")  # importing ml_dtypes teaches NumPy bfloat16
_LARGEST_JSON = 64 * 2**20  # bytes; a part's description of ten thousand tensors is far below


@dataclass(frozen=True)
class Segment:
    """One recording: from a start of the run to its end, or to where it was killed."""

    folder: Path
    header: Header
    part_files: tuple[Path, ...]
    end: End | None

    def parts(self) -> Iterator["LoadedPart"]:
        """Each part, verified when its turn comes. Raises TraceError."""
        for path in self.part_files:
            with _open_part(path) as part:
                yield part


class LoadedPart:
    """A verified part; its arrays come from disk when they are asked for."""

    def __init__(self, path: Path, meta: Part, file: Any) -> None:
        self.path, self.meta, self._file = path, meta, file
        self._names = frozenset(file.keys())

    def holds(self, block: int, tensor: int, quantity: str) -> bool:
        """Whether the array is there; the coordinates of a tensor recorded whole are not."""
        return key(block, tensor, quantity) in self._names

    def columns(self, block: int, tensor: int, quantity: str) -> int:
        """The length of the last axis of an array that is there."""
        shape: list[int] = self._file.get_slice(key(block, tensor, quantity)).get_shape()
        return shape[-1] if shape else 0

    def array(self, block: int, tensor: int, quantity: str, rows: int, columns: int) -> NDArray[Any]:
        """Shape (rows, columns). Raises TraceError if it is missing or of another shape or type."""
        name = key(block, tensor, quantity)
        where = f"{self.path}: {quantity} of {self.meta.tensors[tensor].name!r} ({name})"
        if name not in self._names:
            raise TraceError(f"{where} is missing: the part describes it but does not hold it")
        array: NDArray[Any] = self._file.get_tensor(name)
        if array.shape != (rows, columns):
            raise TraceError(f"{where} has the shape {array.shape}; its description says {(rows, columns)}")
        if array.dtype.name not in (*_DTYPES, "int64"):
            raise TraceError(f"{where} is {array.dtype.name}; accepted are {', '.join(_DTYPES)}")
        return array


def open_trace(path: Path) -> tuple[Segment, ...]:
    """The segments of a trace; `path` may also be a run's folder with a trace/ in it. Raises TraceError."""
    if not path.is_dir():
        raise TraceError(f"{path} is not a trace: a trace is a folder that holds segment-0001/")
    folder = path if _segments(path) or not (path / "trace").is_dir() else path / "trace"
    found = _segments(folder)
    if not found:
        raise TraceError(f"{path} is not a trace: it holds no segment-0001/ (see docs/trace.md)")
    segments = tuple(_open_segment(segment) for segment in found)
    rules = {segment.header.rule for segment in segments}
    if len(rules) > 1:
        raise TraceError(
            f"{folder}: its segments claim different rules ({', '.join(sorted(rules))}); replay them apart"
        )
    return segments


def _segments(folder: Path) -> list[Path]:
    return sorted(entry for entry in folder.iterdir() if re.fullmatch(SEGMENT_NAME, entry.name))


def _open_segment(folder: Path) -> Segment:
    header = _read_header(folder / "header.json")
    matches = {entry: re.fullmatch(PART_NAME, entry.name) for entry in sorted(folder.iterdir())}
    parts = {path: int(match[1]) for path, match in matches.items() if match}
    for wanted, (path, number) in enumerate(parts.items(), start=1):
        if number != wanted:
            raise TraceError(f"{folder}: part {wanted} is missing or there twice (found {path.name} in its place)")
    end = _read(folder / "end.json", End) if (folder / "end.json").exists() else None
    if end is not None and end.parts != len(parts):
        raise TraceError(f"{folder}: end.json counts {end.parts} parts, {len(parts)} are there")
    return Segment(folder, header, tuple(parts), end)


def _read_header(path: Path) -> Header:
    parsed = _parse(path, _text(path))
    values = cast(dict[str, Any], parsed) if isinstance(parsed, dict) else {}
    if values.get("format") != FORMAT:
        raise TraceError(f"{path}: format is {values.get('format')!r}; a trace says {FORMAT!r}")
    version = values.get("version")
    if version != VERSION:
        raise TraceError(f"{path}: version is {version!r}; this replayer reads version {VERSION}")
    return _validate(path, values, Header)


def _read(path: Path, model: type[Model]) -> Model:
    return _validate(path, _parse(path, _text(path)), model)


def _text(path: Path) -> str:
    try:
        if path.stat().st_size > _LARGEST_JSON:
            raise TraceError(f"{path} is larger than {_LARGEST_JSON} bytes: this is not what a recorder wrote")
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise TraceError(f"{path} cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise TraceError(f"{path} is not UTF-8 text") from None


def _parse(path: Path, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise TraceError(f"{path}: not JSON ({error})") from None


def _validate(path: Path, values: Any, model: type[Model]) -> Model:
    try:
        return model.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "the whole"
        raise TraceError(f"{path}: {where}: {first['msg']} ({error.error_count()} problem(s) in all)") from None


@contextlib.contextmanager
def _open_part(path: Path) -> Generator[LoadedPart]:
    match = re.fullmatch(PART_NAME, path.name)
    assert match is not None
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise TraceError(f"{path} cannot be read ({error.strerror})") from None
    if digest != match[2]:
        raise TraceError(f"{path} is damaged: its sha256 is {digest}, its name promises another (truncated or altered)")
    try:
        file = safe_open(path, framework="np")
    except (SafetensorError, OSError) as error:
        raise TraceError(f"{path} is not a safetensors file: {error}") from None
    with file:
        metadata = cast(dict[str, str], file.metadata() or {})
        text = metadata.get(METADATA_KEY, "")
        if len(text) > _LARGEST_JSON:
            raise TraceError(f"{path}: its description is larger than {_LARGEST_JSON} bytes")
        part = _validate(path, _parse(path, text), Part)
        _check(path, part)
        yield LoadedPart(path, part, file)


def _check(path: Path, part: Part) -> None:
    """What the types cannot say: every number of a step, row, tensor or group is one that exists."""
    groups = max((tensor.group for tensor in part.tensors), default=-1) + 1
    steps = [step.step for step in part.steps]
    if any(later <= earlier for earlier, later in itertools.pairwise(steps)):
        raise TraceError(f"{path}: its steps do not ascend: {steps}")
    for step in part.steps:
        if len(step.options) < groups:
            raise TraceError(
                f"{path}: step {step.step} has options of {len(step.options)} groups, tensors are in {groups}"
            )
    for number, block in enumerate(part.blocks):
        rows = len(block.steps)
        if not set(block.steps) <= set(steps) or len(set(block.steps)) != rows:
            raise TraceError(f"{path}: block {number} has steps that the part does not list once: {block.steps}")
        for entry in block.tensors:
            listed = [*entry.no_grad, *entry.before]
            for slot in entry.slots.values():
                listed += [*slot.before, *slot.absent_before, *slot.absent_after]
            if entry.tensor >= len(part.tensors) or any(row >= rows for row in listed):
                raise TraceError(
                    f"{path}: block {number}, tensor {entry.tensor}: a tensor or a row that does not exist"
                )
