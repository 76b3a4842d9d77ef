"""Loads images from parquet files, `data.source = parquet:PATH`, such as data sets of the Hugging Face hub consist of.

Images are decoded as those of a folder are, a few rows at a time.
"""

import os
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from distrib.data.decoding import image_cache
from distrib.data.decoding.decoder import Decoder
from distrib.data.decoding.image_cache import Decoded
from distrib.data.images import Dataset, Split
from distrib.data.labels import classes_of
from distrib.data.selection import ALL, Selection
from distrib.data.sources.parquet.columns import ANY, ChosenColumns, WantedColumns, choose_columns, class_names
from distrib.data.sources.parquet.files import split_files
from distrib.data.sources.parquet.table import Table, expect_pyarrow, images_of, labels_of, read_footer
from distrib.data.walk import walk
from distrib.errors import BadInput
from distrib.files import DISK_BROKEN
from distrib.text import listed

_FORMAT = "twinstep-parquet-1"
_MOST_ROWS = 10**8
_TOLD = 5


def load(
    path: Path,
    cache: Path,
    selection: Selection = ALL,
    columns: WantedColumns = ANY,
    source: str | None = None,
) -> Dataset:
    """Return the images in a folder; `source` is what the user called it.

    Raises BadInput for files that are missing, damaged or of other columns, for images that do not decode, and for too many; and
    OSError.
    """
    expect_pyarrow()
    source = source or f"parquet:{path}"
    said = f"data.source = {source}"
    files, others = split_files(said, _listing(said, path))
    tables = {split: [read_footer(said, path / name) for name in names] for split, names in files.items()}
    chosen = choose_columns(said, tables["train"][0].schema, columns)
    every = [table for its in tables.values() for table in its]
    for table in every:
        _expect_columns(table, chosen, tables["train"][0].schema)
    _expect_same_names(every, chosen.label)
    totals = {split: sum(sum(table.groups) for table in its) for split, its in tables.items()}
    for split, total in totals.items():
        if not 0 < total <= _MOST_ROWS:
            raise BadInput(f"{said}: its split {split} has {total} rows; accepted are 1 to {_MOST_ROWS}")
    taken = selection.of(source, totals)
    labels = {split: labels_of(its, split, chosen.label) for split, its in tables.items()}
    places = {split: f"{said}: column {chosen.label} of {split}" for split in tables}
    classes = classes_of(labels, places, chosen.classes)
    counts, size = {split: len(positions) for split, positions in taken.items()}, selection.image_size
    key = _key(path, [table.file for table in every], chosen.image, counts, size)
    decoded = image_cache.through(cache, key, counts, size, lambda: _decode(tables, taken, chosen.image, size))
    splits = {split: Split(decoded.images[split], torch.from_numpy(labels[split])[taken[split]]) for split in tables}
    return Dataset(source, classes, **splits, notes=(*decoded.notes(size), *_left_out(others)))


def _listing(said: str, path: Path) -> list[Path]:
    """Return the parquet files in a folder, relative to it. Raises BadInput, and OSError for a disk that breaks."""
    try:
        if not path.is_dir():
            raise BadInput(f"{said}: there is no such folder; expected is one that holds parquet files")
        found = [
            Path(place, name).relative_to(path)
            for place, _, names in walk(path)
            for name in names
            if name.endswith(".parquet")
        ]
    except OSError as error:
        if error.errno in DISK_BROKEN:
            raise
        raise BadInput(f"{said}: {error.filename} cannot be read: {error.strerror}") from None
    return [file for file in found if not any(part.startswith(".") for part in file.parts)]


def _expect_columns(table: Table, chosen: ChosenColumns, schema: Any) -> None:
    """Raise BadInput if a file lacks the column of images or of labels, or if that has another type than in the first file."""
    for name in (chosen.image, chosen.label):
        if table.schema.get_field_index(name) < 0 or table.schema.field(name).type != schema.field(name).type:
            raise BadInput(
                f"{table.said}: column {name} of {table.file} is not there, or of another type than in the first file"
            )


def _expect_same_names(tables: Sequence[Table], label: str) -> None:
    """Raise BadInput if a label has one name in one file and another name, or none, in another.

    A split that was read from folders or texts by itself numbers its own classes, and the same number is then another class.
    """
    named = [(table, names) for table in tables if (names := class_names(table.schema, label)) is not None]
    for table, names in named[1:]:
        first, its = named[0]
        for number, (one, other) in enumerate(zip_longest(its, names)):
            if one != other:
                said = [
                    f"{'nothing' if name is None else repr(name)} in {where.file}"
                    for where, name in ((first, one), (table, other))
                ]
                raise BadInput(
                    f"{table.said}: label {number} of column {label} means {' and '.join(said)}: number the classes of all files "
                    "alike, by one list of names (ClassLabel of `datasets`)"
                )


def _decode(tables: Mapping[str, Sequence[Table]], taken: Mapping[str, Tensor], column: str, size: int) -> Decoded:
    """Decode the images at these rows of each split. Raises BadInput, which names split and row, and OSError."""
    decoder = Decoder(sum(map(len, taken.values())), size)
    for split, its in tables.items():
        for images in images_of(its, split, taken[split].numpy(), column):
            decoder.add(images)
    images, sizes = decoder.finish("the set")
    return Decoded.cut(images, {split: len(rows) for split, rows in taken.items()}, sizes)


def _key(path: Path, files: Sequence[Path], column: str, counts: Mapping[str, int], size: int) -> str:
    """Return a name for the cache of these images. Raises OSError."""
    facts = [(os.fsencode(file.relative_to(path)).hex(), image_cache.state_of(file.stat())) for file in files]
    return image_cache.key(_FORMAT, path, [facts, column], counts, size)


def _left_out(others: Sequence[Any]) -> list[str]:
    """Say which parquet files are not used: they may be meant to be."""
    if not others:
        return []
    return [f"left out, being of neither the training nor the test split: {listed(others, _TOLD)}"]
