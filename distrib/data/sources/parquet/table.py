"""Reads parquet files by pyarrow: first the footer of each, then labels and images, a few rows at a time.

Pyarrow reads such files without running anything that came with them.
"""

import io
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, BinaryIO

import numpy
from numpy.typing import NDArray

from distrib.data.decoding.image import LARGEST_FILE
from distrib.errors import BadInput
from distrib.files import DISK_BROKEN, Unfit, open_regular
from distrib.system import memory

_LARGEST_FILE = 2**42  # bytes: it is read a row group at a time
_ROWS = 256  # whose images are in memory at a time before they are decoded


def expect_pyarrow() -> None:
    """Raise BadInput, which says how to install it, if pyarrow is missing."""
    try:
        import_module("pyarrow.parquet")
    except ImportError as error:
        raise BadInput(
            f"data.source = parquet:PATH and hf:OWNER/NAME need pyarrow ({error}): pip install pyarrow"
        ) from None


@dataclass(frozen=True, slots=True)
class Table:
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


def read_footer(said: str, file: Path) -> Table:
    """Read the footer of a file. Raises BadInput and OSError."""
    with _opened(said, file) as table:
        footer: Any = table.metadata
        groups = [footer.row_group(number) for number in range(footer.num_row_groups)]
        largest, room = max((group.total_byte_size for group in groups), default=0), memory() // 4
        if largest > room:
            raise BadInput(
                f"{said}: a row group of {file} takes {largest} bytes, more than a quarter of the memory here: write it again "
                "with smaller ones (row_group_size of pyarrow.parquet.write_table)"
            )
        return Table(said, file, table.schema_arrow, [group.num_rows for group in groups])


def labels_of(tables: Sequence[Table], split: str, column: str) -> NDArray[numpy.int64]:
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


def images_of(
    tables: Sequence[Table], split: str, rows: NDArray[numpy.int64], column: str
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
