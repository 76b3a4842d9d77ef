"""Says what of a recipe stays when the command line chooses another variant of a section, such as another optimizer."""

from collections.abc import Iterable, Iterator, Mapping
from inspect import get_annotations
from typing import Any, NamedTuple, cast, get_args

from pydantic import BaseModel

from distrib.config.messages import as_toml


class Replaced(NamedTuple):
    """A section of which the command line chooses another variant than the recipe."""

    section: str
    old: type[BaseModel]
    new: type[BaseModel]


def replaced_variants(model: type[BaseModel], table: Mapping[str, Any], given: Mapping[str, Any]) -> Iterator[Replaced]:
    """Yield each section of the recipe's table of which the values that are given, by dotted key, choose another variant."""
    for section, info in model.model_fields.items():
        classes = cast("tuple[type[BaseModel], ...]", get_args(info.annotation))
        variants = {cls.model_fields["name"].default: cls for cls in classes}
        own = table.get(section)
        if not isinstance(own, dict):
            continue
        old, new = cast("dict[str, Any]", own).get("name"), given.get(f"{section}.name")
        if isinstance(old, str) and old != new and old in variants and new in variants:
            yield Replaced(section, variants[old], variants[new])


def drop_replaced(
    replaced: Iterable[Replaced], table: dict[str, Any], given: Mapping[str, Any], recipe: str, source: str
) -> list[str]:
    """Take from the recipe's table what was meant for a variant that is replaced. Return a note on each section.

    `given` holds by dotted key the values that replace the recipe's, and `source` says where they are from. A key stays if it
    means the same for both variants, which is so if both inherit it from one class: `fused` of SGD is that of Adam, and a
    learning rate of SGD is none of Adam's.
    """
    notes: list[str] = []
    for section, old, new in replaced:
        own = table[section]
        dropped = [key for key in own if key != "name" and _owner(old, key) is not _owner(new, key)]
        told = [key for key in dropped if f"{section}.{key}" not in given]
        values = ", ".join(f"{key} = {as_toml(own[key])}" for key in told)
        for key in dropped:
            del own[key]
        if told:
            names = old.model_fields["name"].default, new.model_fields["name"].default
            were = "was" if len(told) == 1 else "were"
            notes.append(
                f"note: {section}.name = {names[1]} (from {source}) in place of {names[0]} (from {recipe}): "
                f"{values} {were} meant for {names[0]}, and {'is' if len(told) == 1 else 'are'} left out"
                + _defaults(section, new, told)
            )
    return notes


def _owner(variant: type[BaseModel], key: str) -> type | None:
    """Return the class that declares the key for this variant, or None if it has no such key."""
    if key not in variant.model_fields:
        return None
    return next(cls for cls in variant.__mro__ if key in get_annotations(cls))


def _defaults(section: str, new: type[BaseModel], keys: list[str]) -> str:
    """Return in words the defaults of the new variant for those of the keys that it has too; empty if it has none."""
    fields = {key: new.model_fields[key] for key in keys if key in new.model_fields}
    values = {key: info.default for key, info in fields.items() if not info.is_required() and info.default != ()}
    shown = ", ".join(f"{section}.{key} = {as_toml(value)}" for key, value in values.items())
    plural = "s" if len(values) > 1 else ""
    return f"; {new.model_fields['name'].default} has its default{plural}, {shown}" if values else ""
