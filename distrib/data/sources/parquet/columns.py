"""Finds the columns of images and labels in a table, by the features that Hugging Face's `datasets` writes, else by type."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from distrib.errors import BadInput


@dataclass(frozen=True, slots=True)
class WantedColumns:
    """The columns of images and labels that the recipe names; None takes the only one that can be."""

    image: str | None = None
    label: str | None = None


ANY = WantedColumns()


@dataclass(frozen=True, slots=True)
class ChosenColumns:
    """The columns of images and labels that are read."""

    image: str
    label: str
    classes: Sequence[str] | None
    """The names of the labels, where the table has them."""


def choose_columns(said: str, schema: Any, columns: WantedColumns) -> ChosenColumns:
    """Return the columns of a pyarrow schema. Raises BadInput, naming the columns, where none can be one or several can."""
    types = {field.name: field.type for field in schema}
    features = _features(schema)

    def declared(kind: str) -> list[str]:
        return [name for name in types if features.get(name, {}).get("_type") == kind]

    images = [name for name, its in types.items() if _holds_images(its)]
    numbers = [name for name, its in types.items() if _is_whole(its)]
    image = _choose(said, "image", columns.image, declared("Image"), images, list(types))
    label = _choose(said, "label", columns.label, declared("ClassLabel"), numbers, list(types))
    return ChosenColumns(image, label, class_names(schema, label))


def class_names(schema: Any, label: str) -> Sequence[str] | None:
    """Return the names that a table has of the labels in this column, if it has any."""
    names = _features(schema).get(label, {}).get("names")
    return names if isinstance(names, list) and all(isinstance(name, str) for name in names) else None  # pyright: ignore[reportUnknownVariableType]


def _choose(
    said: str, kind: str, wanted: str | None, declared: Sequence[str], fitting: Sequence[str], every: Sequence[str]
) -> str:
    key = f"data.{kind}_column"
    what = "bytes of image files" if kind == "image" else "whole numbers"
    if wanted is not None:
        if wanted not in fitting:
            why = f"holds no {what}" if wanted in every else "is not there"
            raise BadInput(f"{key} = {wanted}: in {said} this column {why}; {_listed(fitting, every)}")
        return wanted
    candidates = [name for name in declared if name in fitting] or fitting
    if not candidates:
        raise BadInput(f"{said} has no column with {what}; {_listed(fitting, every)}")
    if len(candidates) > 1:
        raise BadInput(
            f"{said} has several columns that may be the {kind}s, {', '.join(candidates)}: say which with --{key} {candidates[0]}"
        )
    return candidates[0]


def _listed(fitting: Sequence[str], every: Sequence[str]) -> str:
    return f"accepted are {', '.join(fitting)}" if fitting else f"its columns are {', '.join(every) or 'none'}"


def _features(schema: Any) -> Mapping[str, Mapping[str, Any]]:
    """Return what `datasets` wrote of each column into the table, if anything."""
    try:
        metadata: dict[bytes, bytes] = schema.metadata or {}
        found: Any = json.loads(metadata[b"huggingface"])["info"]["features"]
    except (KeyError, TypeError, ValueError, RecursionError):
        return {}
    return {name: its for name, its in found.items() if isinstance(its, dict)} if isinstance(found, dict) else {}  # pyright: ignore[reportUnknownVariableType]


def _holds_images(its: Any) -> bool:
    """Return whether a type is bytes, or a structure with bytes, as `datasets` stores an image."""
    types: Any = import_module("pyarrow.types")
    if types.is_struct(its):
        place = its.get_field_index("bytes")
        return place >= 0 and _holds_images(its.field(place).type)
    return bool(types.is_binary(its) or types.is_large_binary(its))


def _is_whole(its: Any) -> bool:
    return bool(import_module("pyarrow.types").is_integer(its))
