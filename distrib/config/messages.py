"""Says pydantic's findings in the words of the person who wrote the recipe."""

import re
import reprlib
from collections.abc import Collection, Generator, Mapping, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from typing import Any, cast

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from distrib.config.fields import tables
from distrib.errors import BadInput

COMMAND_LINE = "the command line"
"""The origin of a value that no recipe gave."""
_SHOWN = 20  # problems
_KEY = re.compile(r"\b([a-z_]+(?:\.[a-z_]+)+)( = )?")
_REPR = reprlib.Repr()  # it cuts what is very long
_REPR.maxstring = _REPR.maxother = _REPR.maxlong = 200
_REPR.maxlist = _REPR.maxtuple = _REPR.maxdict = 20
_TOML_WORDS = {
    "Input should be a valid tuple": "it must be an array",
    "Input should be a valid dictionary": "it must be a table",
    "Input should be": "it must be",
}


def explain(details: Sequence[ErrorDetails], model: type[BaseModel], origin: Mapping[str, str], recipe: str) -> str:
    """Return one paragraph that says of each problem its key, where it was set, its value, and what is accepted."""
    more = [f"{len(details) - _SHOWN} more problems"] if len(details) > _SHOWN else []
    return "; also ".join([*(_one(detail, model, origin, recipe) for detail in details[:_SHOWN]), *more])


def with_origins(message: str, origin: Mapping[str, str], defaults: Collection[str] = ()) -> str:
    """Return the message, and where each key was set that it gives with its value, or, if it gives none, each that it names.

    A key among `defaults` that was set nowhere has its default, and that is said as well.
    """
    named = cast("list[tuple[str, str]]", _KEY.findall(message))
    found = {key: _found(key, origin) for key, _ in named}
    keys = dict.fromkeys(key for key, equals in named if equals and (found[key] is not None or key in defaults))
    keys = keys or dict.fromkeys(key for key, _ in named if key in origin)
    told = [f"{key} is {'the default' if found[key] is None else f'from {found[key]}'}" for key in keys]
    return "; ".join([message, ", ".join(told)] if told else [message])


@contextmanager
def telling_origins(origin: Mapping[str, str], defaults: Collection[str]) -> Generator[None]:
    """Add to the message of a BadInput that is raised inside where the keys that it names were set."""
    try:
        yield
    except BadInput as error:
        raise BadInput(with_origins(str(error), origin, defaults)) from error


def as_text(value: object) -> str:
    """Return a value as `--help` and pages show it: as TOML writes it, but text without quotes, and none where there is none."""
    if value is None:
        return "none"
    return str(value).lower() if isinstance(value, bool) else str(value)


def as_toml(value: Any) -> str:
    """Return a value about as TOML writes it, cut if it is long."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    return _REPR.repr(list(cast("tuple[object, ...]", value)) if isinstance(value, tuple) else value)


def _one(detail: ErrorDetails, model: type[BaseModel], origin: Mapping[str, str], recipe: str) -> str:
    key, variant = _dotted(detail["loc"], model)
    where = _where(key, origin)
    kind, value = detail["type"], _REPR.repr(detail["input"])
    if kind == "extra_forbidden":
        return f"unknown key {key}{where}{_hint(key, variant, model)}"
    if kind in ("missing", "union_tag_not_found"):
        return _missing(key, variant, model, origin, recipe)
    if kind == "union_tag_invalid":
        chosen = cast(dict[str, object], detail["input"]).get("name")
        where = _where(f"{key}.name", origin)
        return f"{key}.name = {_REPR.repr(chosen)}{where} is not known: accepted are {', '.join(_names(key, model))}"
    if kind in ("model_type", "model_attributes_type", "dict_type"):
        return f"{key} = {value}{where}: it must be a table"
    message = detail["msg"].removeprefix("Value error, ")
    if kind == "value_error" and (not key or key in model.model_fields):
        return with_origins(message, origin)  # a rule over several keys: the message names them
    for words, toml in _TOML_WORDS.items():
        message = message.replace(words, toml)
    return f"{key} = {value}{where}: {message}"


def _missing(key: str, variant: str | None, model: type[BaseModel], origin: Mapping[str, str], recipe: str) -> str:
    if names := _names(key, model):
        return f"{key}.name is missing: set it to one of {', '.join(names)}, in {recipe} or by --{key}.name"
    if variant and key.count(".") == 1:
        choice = f"{key.partition('.')[0]}.name"
        return f"{key} is missing: {choice} = {variant}{_where(choice, origin)} needs it; set it"
    return f"{key} is missing{_where(key, origin)}: set it"


def _dotted(loc: tuple[int | str, ...], model: type[BaseModel]) -> tuple[str, str | None]:
    """Return pydantic's location as a dotted key, and apart from it the union tag that it inserts after a section with
    variants.
    """
    parts = [str(part) for part in loc]
    tag = parts.pop(1) if len(parts) > 1 and _names(parts[0], model) else None
    return ".".join(parts), tag


def _where(key: str, origin: Mapping[str, str]) -> str:
    """Return in parentheses where the key was set, if it was."""
    found = _found(key, origin)
    return f" (from {found})" if found else ""


def _found(key: str, origin: Mapping[str, str]) -> str | None:
    """Return where the key was set, or the array that it is in, or a key of the table that it is."""
    if key in origin:
        return origin[key]
    related = [name for name in origin if key.startswith(name + ".") or name.startswith(key + ".")]
    return origin[max(related, key=len)] if related else None


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
    deepest_first = sorted(known, key=lambda k: -k.count("."))
    anywhere = {k.rpartition(".")[2]: k for k in deepest_first}
    # A slip of the pen in the right section comes before the right name in the wrong one, and that before a rough likeness.
    if siblings:
        near = _near(last, siblings, 0.75) or _near(last, anywhere, 0.85) or _near(last, siblings, 0.5)
        return f": did you mean {near}?" if near else f": accepted are {', '.join(dict.fromkeys(siblings.values()))}"
    # An unknown section, or no section at all: `--trainig.epochs 6`, `--epochs 6`.
    sections = {name: name for name in model.model_fields}
    near = _near(section, sections, 0.6) or _near(last, anywhere, 0.7)
    return f": did you mean {near}?" if near else f": accepted are {', '.join(sections)}"


def _near(name: str, known: Mapping[str, str], cutoff: float) -> str | None:
    """Return what stands in `known` under the name most like this one, if one is as much like it."""
    matches = get_close_matches(name, list(known), n=1, cutoff=cutoff)
    return known[matches[0]] if matches else None


def _names(section: str, model: type[BaseModel]) -> list[str]:
    """Return the values that the section's key `name` may have; none for a section without variants."""
    return [table.name for table in tables(model) if table.section == section and table.name]
