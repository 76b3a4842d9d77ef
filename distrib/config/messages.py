"""pydantic's findings in the words of the person who wrote the recipe."""

import reprlib
from collections.abc import Mapping
from difflib import get_close_matches
from typing import cast

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from distrib.config.fields import tables

_SHOWN = 20  # problems
_REPR = reprlib.Repr()  # it cuts what is very long
_REPR.maxstring = _REPR.maxother = _REPR.maxlong = 200
_REPR.maxlist = _REPR.maxtuple = _REPR.maxdict = 20
_TOML_WORDS = {
    "Input should be a valid tuple": "it must be an array",
    "Input should be a valid dictionary": "it must be a table",
    "Input should be": "it must be",
}


def explain(error: ValidationError, model: type[BaseModel], origin: Mapping[str, str]) -> str:
    """Return one paragraph that says of each problem its key, where it was set, its value, and what is accepted."""
    details = error.errors(include_url=False)
    more = [f"{len(details) - _SHOWN} more problems"] if len(details) > _SHOWN else []
    return "; also ".join([*(_one(detail, model, origin) for detail in details[:_SHOWN]), *more])


def _one(detail: ErrorDetails, model: type[BaseModel], origin: Mapping[str, str]) -> str:
    key, variant = _dotted(detail["loc"], model)
    where = _where(key, origin)
    kind, value = detail["type"], _REPR.repr(detail["input"])
    if kind == "extra_forbidden":
        return f"unknown key {key}{where}{_hint(key, variant, model)}"
    if kind in ("missing", "union_tag_not_found"):
        names = ", ".join(_names(key, model))
        return f"{key}.name is missing: set it to one of {names}" if names else f"{key} is missing: set it"
    if kind == "union_tag_invalid":
        chosen = cast(dict[str, object], detail["input"]).get("name")
        return f"{key}.name = {_REPR.repr(chosen)}{where} is not known: accepted are {', '.join(_names(key, model))}"
    if kind in ("model_type", "model_attributes_type", "dict_type"):
        return f"{key} = {value}{where}: it must be a table"
    message = detail["msg"].removeprefix("Value error, ")
    if kind == "value_error" and (not key or key in model.model_fields):
        return message  # a rule over several keys: the message names them
    for words, toml in _TOML_WORDS.items():
        message = message.replace(words, toml)
    return f"{key} = {value}{where}: {message}"


def _dotted(loc: tuple[int | str, ...], model: type[BaseModel]) -> tuple[str, str | None]:
    """Return pydantic's location as a dotted key, and apart from it the union tag that it inserts after a section with variants."""
    parts = [str(part) for part in loc]
    tag = parts.pop(1) if len(parts) > 1 and _names(parts[0], model) else None
    return ".".join(parts), tag


def _where(key: str, origin: Mapping[str, str]) -> str:
    """Return where the key was set, or the array that it is in, or a key of the table that it is."""
    found = origin.get(key)
    if found is None:
        related = [name for name in origin if key.startswith(name + ".") or name.startswith(key + ".")]
        found = origin[max(related, key=len)] if related else None
    return f" (from {found})" if found else ""


def _hint(key: str, variant: str | None, model: type[BaseModel]) -> str:
    """Return a hint at the nearest name, or, if none is near, at what is accepted at this place."""
    plain = ".".join(part for part in key.split(".") if not part.isdecimal())  # without the index in an array
    owners = sorted(table.name for table in tables(model) if plain in table.fields and table.name)
    section, last = plain.split(".")[0], plain.split(".")[-1]
    if owners and variant:
        return f": it belongs to {' and '.join(owners)}, and {section}.name is {variant}"
    table = plain.rpartition(".")[0]
    known = [key for t in tables(model) if variant is None or t.name in (None, variant) for key in t.fields]
    siblings = {k.rpartition(".")[2]: k for k in known if k.rpartition(".")[0] == table} if table else {}
    near = get_close_matches(last, list(siblings), n=1, cutoff=0.5)
    if near:
        return f": did you mean {siblings[near[0]]}?"
    if siblings:
        return f": accepted are {', '.join(dict.fromkeys(siblings.values()))}"
    # An unknown section, or no section at all: `--trainig.epochs 6`, `--epochs 6`.
    sections = list(model.model_fields)
    near = get_close_matches(section, sections, n=1, cutoff=0.6)
    if not near:
        deepest_first = sorted(known, key=lambda k: -k.count("."))
        anywhere = {k.rpartition(".")[2]: k for k in deepest_first}
        near = [anywhere[name] for name in get_close_matches(last, list(anywhere), n=1, cutoff=0.7)]
    return f": did you mean {near[0]}?" if near else f": accepted are {', '.join(sections)}"


def _names(section: str, model: type[BaseModel]) -> list[str]:
    """Return the values that the section's key `name` may have; none for a section without variants."""
    return [table.name for table in tables(model) if table.section == section and table.name]
