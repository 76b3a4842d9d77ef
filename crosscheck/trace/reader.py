"""Reading a trace, part by part. Nothing in it is believed before it was checked; nothing in it is run."""

import contextlib
import hashlib
import re
from collections.abc import Collection, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast, get_args

import ml_dtypes
import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from crosscheck.errors import TraceError
from crosscheck.text import listed, one_line
from crosscheck.trace.consistency import check_part, check_tensors
from crosscheck.trace.format import (
    METADATA_KEY,
    PART_NAME,
    PASS_NAME,
    RANK_NAME,
    SEGMENT_NAME,
    DType,
    End,
    Header,
    Part,
    Pass,
    TensorInfo,
    key,
)
from crosscheck.trace.parsing import (
    LARGEST_JSON,
    Model,
    brief,
    expect_file,
    parse,
    read_header,
    reading,
    text_of,
    validate,
)

_DTYPES = {  # by safetensors' names; importing ml_dtypes teaches NumPy bfloat16
    "F64": "float64",
    "F32": "float32",
    "BF16": ml_dtypes.bfloat16.__name__,
    "F16": "float16",
    "I64": "int64",
    "U8": "uint8",
}
_LARGEST_PART = 64 * 2**30  # bytes; of a model of billions, in a full step
_LARGEST_PASS = 256 * 2**20  # bytes; 18,000 images of the article's network
_FLOATS: tuple[str, ...] = get_args(DType)


@dataclass(eq=False)
class Segment:
    """One recording: from a start of the run to its end, or to where it was killed."""

    folder: Path
    header: Header
    part_files: tuple[Path, ...]
    pass_files: tuple[Path, ...]
    end: End | None

    @property
    def samples_change(self) -> bool:
        """Return whether each part may have other tensors and elements than the one before."""
        return self.header.coordinates is None

    def parts(self) -> Iterator["LoadedPart"]:
        """Yield each part, verified when its turn comes, by itself and against those before it. Raises TraceError."""
        reader = PartReader(self)
        yield from reader.unread()
        reader.check_end()

    def refresh(self) -> None:
        """Look again which files there are: somebody may be writing the segment. Raises TraceError."""
        now = _open_segment(self.folder)
        self.part_files, self.pass_files, self.end = now.part_files, now.pass_files, now.end

    def passes(self) -> Iterator["LoadedPass"]:
        """Yield each recorded pass, verified. Raises TraceError."""
        for path in self.pass_files:
            with _open_verified(path, PASS_NAME, Pass, _LARGEST_PASS) as (described, file, size):
                if described.step != int(path.name.removeprefix("pass-")[:8]):
                    raise TraceError(f"{path} describes step {described.step}; its name says another")
                yield LoadedPass(path, described, file, size)


class PartReader:
    """Reads the parts of a segment in their order, also while it grows."""

    def __init__(self, segment: Segment) -> None:
        self._segment, self._read = segment, 0
        self.last_step = segment.header.first_step - 1
        """The last step of the parts that were read."""
        self._tensors: tuple[TensorInfo, ...] = ()

    def unread(self) -> Iterator["LoadedPart"]:
        """Yield each part that is there and was not read, verified by itself and against those before it. Raises TraceError."""
        while self._read < len(self._segment.part_files):
            path = self._segment.part_files[self._read]
            with _open_verified(path, PART_NAME, Part, _LARGEST_PART) as (meta, file, size):
                check_part(path, meta, size)
                part = LoadedPart(path, meta, file, size)
                first_step = meta.steps[0].step
                if first_step <= self.last_step:
                    raise TraceError(
                        f"{path} begins with step {first_step}; after the parts before it, or by the header, "
                        f"step {self.last_step + 1} is the first that can come"
                    )
                self.last_step = meta.steps[-1].step
                check_tensors(path, self._tensors, meta.tensors)
                self._tensors = meta.tensors
                self._read += 1
                yield part

    def check_end(self) -> None:
        """Raises TraceError if the segment was closed after another step than the last that was read."""
        segment = self._segment
        if segment.end is not None and segment.end.last_step != self.last_step:
            raise TraceError(
                f"{segment.folder / 'end.json'}: last_step is {segment.end.last_step}; the parts end with step {self.last_step}"
            )


@dataclass(frozen=True, slots=True)
class LoadedPass:
    """A forward and backward pass; its arrays come from disk when they are asked for, while `Segment.passes` is at it."""

    path: Path
    described: Pass
    file: Any
    nbytes: int

    def expect(self, name: str, dtype: str, shape: tuple[int | None, ...]) -> tuple[int, ...]:
        """Return the shape of an array, of which nothing is loaded yet.

        Raises TraceError if it is missing, or not of this type or shape, where None is any length.
        """
        if name not in self.file.keys():  # noqa: SIM118 (it is no dict)
            raise TraceError(f"{self.path}: {name} is missing")
        stored = self.file.get_slice(name)
        found, its_dtype = tuple(stored.get_shape()), _DTYPES.get(stored.get_dtype(), stored.get_dtype())
        fits = len(found) == len(shape) and all(n in (None, m) for n, m in zip(shape, found, strict=True))
        if its_dtype != dtype or not fits:
            raise TraceError(f"{self.path}: {name} is {its_dtype} {found}; needed is {dtype} {shape}")
        return found

    def array(self, name: str, dtype: str, shape: tuple[int | None, ...]) -> NDArray[Any]:
        """Load an array. Raises TraceError as `expect` does."""
        self.expect(name, dtype, shape)
        return self.file.get_tensor(name)


class LoadedPart:
    """A verified part; its arrays come from disk when they are asked for."""

    def __init__(self, path: Path, meta: Part, file: Any, nbytes: int) -> None:
        self.path, self.meta, self._file, self.nbytes = path, meta, file, nbytes
        self._names = frozenset(file.keys())

    def has_coordinates(self, block: int, tensor: int) -> bool:
        """Return whether positions are stored of a tensor: those of one recorded whole are not."""
        return key(block, tensor, "coordinates") in self._names

    def expect(
        self, block: int, tensor: int, quantity: str, rows: int, columns: int, dtypes: Collection[str] = ()
    ) -> str:
        """Return the name of an array without loading it. Raises TraceError if it is missing or has another shape or type.

        Accepted types are `dtypes`, or else all floats, and int64 of coordinates alone.
        """
        name = key(block, tensor, quantity)
        where = f"{self.path}: {quantity} of {self.meta.tensors[tensor].name!r} ({name})"
        if name not in self._names:
            raise TraceError(f"{where} is missing: the part describes it but does not hold it")
        stored = self._file.get_slice(name)
        shape, dtype = tuple(stored.get_shape()), _DTYPES.get(stored.get_dtype(), stored.get_dtype())
        accepted = dtypes or (("int64",) if quantity == "coordinates" else _FLOATS)
        if dtype not in accepted:
            raise TraceError(f"{where} is {dtype}; accepted here: {', '.join(accepted)}")
        if shape != (rows, columns):
            raise TraceError(f"{where} has the shape {shape}; its description says {(rows, columns)}")
        return name

    def array(
        self, block: int, tensor: int, quantity: str, rows: int, columns: int, dtypes: Collection[str] = ()
    ) -> NDArray[Any]:
        """Load an array of shape (rows, columns). Raises TraceError as `expect` does."""
        return self._file.get_tensor(self.expect(block, tensor, quantity, rows, columns, dtypes))

    def coordinates(self, block: int, tensor: int) -> NDArray[np.int64] | None:
        """Return the positions that were sampled, in C order; None for a tensor recorded whole. Raises TraceError."""
        if self.meta.blocks[block].full or not self.has_coordinates(block, tensor):
            return None
        shape: list[int] = self._file.get_slice(key(block, tensor, "coordinates")).get_shape()
        found = self.array(block, tensor, "coordinates", 1, shape[-1] if shape else 0)[0]
        info = self.meta.tensors[tensor]
        outside = len(found) > info.numel or (len(found) and (found.min() < 0 or found.max() >= info.numel))
        if outside or len(np.unique(found)) < len(found):
            raise TraceError(
                f"{self.path}: coordinates of {info.name!r} are not positions in a tensor of {info.numel} elements, each once"
            )
        return found


def open_ranks(*paths: Path) -> dict[int, tuple[Segment, ...]]:
    """Return the segments of every rank of a run, by rank.

    Each of the paths is a trace of one or of several ranks, or a run's folder with such a trace/ in it. Raises TraceError.
    """
    found: dict[int, tuple[Segment, ...]] = {}
    for path in paths:
        _expect_folder(path)
        folders = _folders_of_ranks(path)
        for folder in folders or [path]:
            segments = open_trace(folder)
            rank = segments[0].header.rank
            if rank in found:
                raise TraceError(
                    f"{found[rank][0].folder.parent} and {segments[0].folder.parent} are both of rank {rank}; replay them apart"
                )
            found[rank] = segments
    rules = sorted({segments[0].header.rule for segments in found.values()})
    if len(rules) > 1:
        raise TraceError(
            f"{paths[0]}: its ranks claim different rules ({one_line(', '.join(rules))}), and a replay takes one: copy the "
            "folders of ranks of the same rule to a place of their own, and replay that"
        )
    return dict(sorted(found.items()))


def open_trace(path: Path) -> tuple[Segment, ...]:
    """Return the segments of one rank's trace; `path` may also be a run's folder with a trace/ in it. Raises TraceError."""
    _expect_folder(path)
    folder = path if _segments(path) or not _is_folder(path / "trace") else path / "trace"
    found = _segments(folder)
    for number, segment in enumerate(found, start=1):
        if segment.name != f"segment-{number:04}":
            raise TraceError(f"{folder}: segment-{number:04} is missing (found {segment.name} in its place)")
    segments = tuple(_open_segment(segment) for segment in found)
    if not segments:
        if folder == path and reading(path, (path / "config.toml").is_file):
            raise TraceError(
                f"{path} is the folder of a run that recorded nothing: there is no trace/ in it. Train with --crosscheck.record, "
                "or a recipe that has crosscheck.record = true"
            )
        raise TraceError(f"{path} is not a trace: it holds no segment-0001/ (see docs/trace.md)")
    rules = sorted({segment.header.rule for segment in segments})
    if len(rules) > 1:
        raise TraceError(
            f"{folder}: its segments claim different rules ({one_line(', '.join(rules))}), and a replay takes one: copy the "
            "segments of one rule to a folder of their own, named from segment-0001 on, and replay that"
        )
    ranks = sorted({segment.header.rank for segment in segments})
    if len(ranks) > 1:
        raise TraceError(
            f"{folder}: its segments are of the ranks {listed([str(rank) for rank in ranks])}; each rank has a folder of its "
            "own, where the recorder is given rank= and world_size="
        )
    return segments


def segment_folders(path: Path) -> list[Path]:
    """Return the folders of all segments that the ranks have begun, at a path where a trace may still be to come.

    Raises TraceError.
    """
    return [segment for folder in _folders_of_ranks(path) for segment in _segments(folder)]


def may_begin(path: Path) -> bool:
    """Return whether a trace may still begin at this path: there is a folder, or nothing yet. Raises TraceError."""
    return reading(path, lambda: path.is_dir() or not path.exists())


def _folders_of_ranks(path: Path) -> list[Path]:
    """Return the folders that hold segments: of rank 0, or of the one that recorded, and those of other ranks in it."""
    for folder in (path, path / "trace"):
        if _is_folder(folder):
            ranks = [entry for entry in _entries(folder) if re.fullmatch(RANK_NAME, entry.name) and _is_folder(entry)]
            begun = [place for place in (folder, *ranks) if _segments(place)]
            if begun:
                return begun
    return []


def _segments(folder: Path) -> list[Path]:
    return [entry for entry in _entries(folder) if re.fullmatch(SEGMENT_NAME, entry.name)]


def _entries(folder: Path) -> list[Path]:
    return reading(folder, lambda: sorted(folder.iterdir()))


def _is_folder(path: Path) -> bool:
    return reading(path, path.is_dir)


def _expect_folder(path: Path) -> None:
    if not _is_folder(path):
        problem = "it is no folder" if reading(path, path.exists) else "there is nothing of this name"
        raise TraceError(f"{path} is not a trace: {problem}; a trace is a folder that holds segment-0001/")


def _open_segment(folder: Path) -> Segment:
    header = read_header(folder / "header.json")
    matches = {entry: re.fullmatch(PART_NAME, entry.name) for entry in _entries(folder)}
    parts = {path: int(match[1]) for path, match in matches.items() if match}
    for wanted, (path, number) in enumerate(parts.items(), start=1):
        if number != wanted:
            raise TraceError(f"{folder}: part {wanted} is missing or there twice (found {path.name} in its place)")
    end_file = folder / "end.json"
    end = validate(end_file, parse(end_file, text_of(end_file)), End) if end_file in matches else None
    if end is not None and end.parts != len(parts):
        raise TraceError(f"{folder}: end.json counts {end.parts} parts, {len(parts)} are there")
    passes = tuple(entry for entry in matches if re.fullmatch(PASS_NAME, entry.name))
    return Segment(folder, header, tuple(parts), passes, end)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def _open_verified(path: Path, pattern: str, model: type[Model], most: int) -> Generator[tuple[Model, Any, int]]:
    """Open a file of at most `most` bytes whose name promises its content; yield what it says of itself, the file, and its size.

    Raises TraceError.
    """
    match = re.fullmatch(pattern, path.name)
    assert match is not None
    size = expect_file(path, most)
    digest = reading(path, lambda: _digest(path))
    if digest != match[2]:
        raise TraceError(f"{path} is damaged: its sha256 is {digest}, its name promises another (truncated or altered)")
    try:
        file = reading(path, lambda: safe_open(path, framework="np"))
    except SafetensorError as error:
        raise TraceError(f"{path} is not a safetensors file: {brief(str(error))}") from None
    with file:
        metadata = cast(dict[str, str], file.metadata() or {})
        text = metadata.get(METADATA_KEY, "")
        if len(text) > LARGEST_JSON:
            raise TraceError(f"{path}: its description is larger than {LARGEST_JSON} bytes")
        yield validate(path, parse(path, text), model), file, size
