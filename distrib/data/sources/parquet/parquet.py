"""Images in parquet files, `data.source = parquet:PATH`, as data sets of the Hugging Face hub have them.

It takes pyarrow alone, which reads such files without running anything that came with them. Images are decoded as those of a
folder are, a few rows at a time.
"""

import io
import os
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, BinaryIO

import numpy
import torch
from numpy.typing import NDArray
from torch import Tensor

from distrib.data.decoding import image_cache
from distrib.data.decoding.decoding import LARGEST_FILE, Decoder
from distrib.data.decoding.image_cache import Decoded
from distrib.data.images import Dataset, Split
from distrib.data.labels import classes_of
from distrib.data.selection import ALL, Selection
from distrib.data.sources.parquet.columns import ANY, ChosenColumns, WantedColumns, choose_columns
from distrib.data.sources.parquet.files import split_files
from distrib.errors import BadInput
from distrib.files import DISK_BROKEN, Unfit, open_regular
from distrib.system import memory
from distrib.text import listed

_FORMAT = "twinstep-parquet-1"
_LARGEST_FILE = 2**42  # bytes: it is read a row group at a time
_MOST_ROWS = 10**8
_ROWS = 256  # whose images are in memory at a time before they are decoded
_TOLD = 5


@dataclass(frozen=True, slots=True)
class _Table:
    """One parquet file, of which the footer has been read."""

    said: str
    file: Path
    schema: Any
    groups: Sequence[int]
    """Rows of each row group."""

    @contextmanager
    def opened(self) -> Generator[Any]:
        with _opened(self.said, self.file) as table:
            yield table


def load(
    path: Path,
    cache: Path,
    selection: Selection = ALL,
    columns: WantedColumns = ANY,
    source: str | None = None,
) -> Dataset:
    """`source` is what the user called the folder.

    Raises BadInput for files that are missing, damaged or of other columns, for images that do not decode, and for too many; OSError.
    """
    expect_pyarrow()
    source = source or f"parquet:{path}"
    said = f"data.source = {source}"
    files, others = split_files(said, _listing(said, path))
    tables = {split: [_table(said, path / name) for name in names] for split, names in files.items()}
    chosen = choose_columns(said, tables["train"][0].schema, columns)
    for table in (table for its in tables.values() for table in its):
        _expect_columns(table, chosen, tables["train"][0].schema)
    totals = {split: sum(sum(table.groups) for table in its) for split, its in tables.items()}
    for split, total in totals.items():
        if not 0 < total <= _MOST_ROWS:
            raise BadInput(f"{said}: its split {split} has {total} rows; accepted are 1 to {_MOST_ROWS}")
    taken = selection.of(source, totals)
    labels = {split: _labels(its, split, chosen.label) for split, its in tables.items()}
    places = {split: f"{said}: column {chosen.label} of {split}" for split in tables}
    classes = classes_of(labels, places, chosen.classes)
    counts, size = {split: len(positions) for split, positions in taken.items()}, selection.image_size
    key = _key(path, [table.file for its in tables.values() for table in its], chosen.image, counts, size)
    decoded = image_cache.through(cache, key, counts, size, lambda: _decode(tables, taken, chosen.image, size))
    splits = {split: Split(decoded.images[split], torch.from_numpy(labels[split])[taken[split]]) for split in tables}
    return Dataset(source, classes, **splits, notes=(*decoded.sizes.notes(size), *_left_out(others)))


def expect_pyarrow() -> None:
    """Raise BadInput that says how to get it, if pyarrow is not installed."""
    try:
        import_module("pyarrow.parquet")
    except ImportError as error:
        raise BadInput(
            f"data.source = parquet:PATH and hf:OWNER/NAME need pyarrow ({error}): pip install pyarrow"
        ) from None


def _listing(said: str, path: Path) -> list[Path]:
    """Return the parquet files in a folder, relative to it. Raises BadInput, and OSError for a disk that breaks."""
    try:
        if not path.is_dir():
            raise BadInput(f"{said}: there is no such folder; expected is one that holds parquet files")
        found = [file.relative_to(path) for file in path.rglob("*.parquet")]
    except OSError as error:
        if error.errno in DISK_BROKEN:
            raise
        raise BadInput(f"{said}: {error.filename} cannot be read: {error.strerror}") from None
    return [file for file in found if not any(part.startswith(".") for part in file.parts)]


@contextmanager
def _opened(said: str, file: Path) -> Generator[Any]:
    """Open a parquet file. Raises BadInput if it cannot be read, also while it is read, and OSError for a disk that breaks."""
    pyarrow: Any = import_module("pyarrow")
    try:
        with open_regular(file, _LARGEST_FILE) as stream:
            yield import_module("pyarrow.parquet").ParquetFile(stream)
    except (OSError, Unfit, pyarrow.ArrowException) as error:
        if isinstance(error, OSError) and error.errno in DISK_BROKEN:
            raise
        why = (isinstance(error, OSError) and error.strerror) or str(error).partition("\n")[0]
        raise BadInput(f"{said}: {file} cannot be read ({why}): copy or download it again") from None


def _table(said: str, file: Path) -> _Table:
    """Read the footer of a file. Raises BadInput and OSError."""
    with _opened(said, file) as table:
        footer: Any = table.metadata
        groups = [footer.row_group(number) for number in range(footer.num_row_groups)]
        largest, room = max((group.total_byte_size for group in groups), default=0), memory() // 4
        if largest > room:
            raise BadInput(
                f"{said}: a row group of {file} takes {largest} bytes, more than a quarter of the memory here: write it again with "
                "smaller ones (row_group_size of pyarrow.parquet.write_table)"
            )
        return _Table(said, file, table.schema_arrow, [group.num_rows for group in groups])


def _expect_columns(table: _Table, chosen: ChosenColumns, schema: Any) -> None:
    """Raise BadInput if a file has the columns of images and labels not, or as something else than the first file has."""
    for name in (chosen.image, chosen.label):
        if table.schema.get_field_index(name) < 0 or table.schema.field(name).type != schema.field(name).type:
            raise BadInput(
                f"{table.said}: column {name} of {table.file} is not there, or of another type than in the first file"
            )


def _labels(tables: Sequence[_Table], split: str, column: str) -> NDArray[numpy.int64]:
    """Return the labels of a split, (N,) int64. Raises BadInput, which names the row of one that is missing, and OSError."""
    parts: list[NDArray[numpy.int64]] = []
    for table in tables:
        with table.opened() as opened:
            for batch in opened.iter_batches(columns=[column], batch_size=2**16):
                its = batch.column(0)
                if its.null_count:
                    row = sum(map(len, parts)) + its.is_null().to_pylist().index(True)
                    raise BadInput(f"{table.said}: row {row} of {split} has no {column}: take it out")
                parts.append(its.cast("int64").to_numpy())
    return numpy.concatenate(parts)


def _decode(tables: Mapping[str, Sequence[_Table]], taken: Mapping[str, Tensor], column: str, size: int) -> Decoded:
    """Decode the images at these rows of each split. Raises BadInput, which names split and row, and OSError."""
    decoder = Decoder(sum(map(len, taken.values())), size)
    for split, its in tables.items():
        for images in _images(its, split, taken[split].numpy(), column):
            decoder.add(images)
    images, sizes = decoder.finish("the set")
    return Decoded.cut(images, {split: len(rows) for split, rows in taken.items()}, sizes)


def _images(
    tables: Sequence[_Table], split: str, rows: NDArray[numpy.int64], column: str
) -> Iterator[list[tuple[str, "partial[BinaryIO]"]]]:
    """Yield the images at these rows, which ascend, a few at a time: the name of each, and how it is opened."""
    first = 0  # the row of the split that a batch begins with
    for table in tables:
        with table.opened() as opened:
            for number, count in enumerate(table.groups):
                if numpy.searchsorted(rows, first) == numpy.searchsorted(rows, first + count):
                    first += count
                    continue
                for batch in opened.iter_batches(columns=[column], batch_size=_ROWS, row_groups=[number]):
                    low, high = numpy.searchsorted(rows, (first, first + len(batch)))
                    yield [
                        (
                            f"row {row} of {split} ({table.file.name})",
                            partial(_open, batch.column(0)[row - first].as_py()),
                        )
                        for row in map(int, rows[low:high])
                    ]
                    first += len(batch)


def _open(image: Any) -> BinaryIO:
    """Open what a table holds of an image. Raises Unfit."""
    held = image.get("bytes") if isinstance(image, dict) else image  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    if not isinstance(held, bytes):
        raise Unfit("the table holds no bytes of it, at most a path")
    if len(held) > LARGEST_FILE:
        raise Unfit(f"it has {len(held)} bytes, and at most {LARGEST_FILE} are read")
    return io.BytesIO(held)


def _key(path: Path, files: Sequence[Path], column: str, counts: Mapping[str, int], size: int) -> str:
    """Return a name for the cache of these images. Raises OSError."""
    facts = [
        (os.fsencode(file.relative_to(path)).hex(), file.stat().st_size, file.stat().st_mtime_ns) for file in files
    ]
    return image_cache.key(_FORMAT, path, [facts, column], counts, size)


def _left_out(others: Sequence[Any]) -> list[str]:
    """Say which parquet files are not used: they may be meant to be."""
    if not others:
        return []
    return [f"left out, being of neither the training nor the test split: {listed(others, _TOLD)}"]
