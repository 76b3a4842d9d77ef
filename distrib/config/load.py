"""From a TOML recipe and `--section.key value` overrides to one checked configuration, whatever its sections are."""

import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

from pydantic import BaseModel, ValidationError

from distrib.config.fields import types
from distrib.config.messages import explain
from distrib.errors import BadInput

Model = TypeVar("Model", bound=BaseModel)
Table = dict[str, Any]


def load(model: type[Model], recipe: Path, overrides: Sequence[str] = ()) -> Model:
    """Read `recipe`, apply the overrides (`["--training.epochs", "6", …]`), check everything against `model`.

    Raises BadInput, with every problem found, in words that name the key and the fix.
    """
    table = read_toml(recipe)
    origin = {key: str(recipe) for key in _leaves(table)}
    for key, text in split_overrides(model, overrides):
        _put(table, key, parse_value(model, key, text))
        origin[key] = "the command line"
    try:
        return model.model_validate(table)
    except ValidationError as error:
        raise BadInput(explain(error, model, origin)) from None


def read_toml(path: Path) -> Table:
    """Return what a TOML file holds. Raises BadInput."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BadInput(
            f"recipe {path}: there is no such file; the recipes that come with the project "
            "are in launch/recipes/ (try launch/recipes/quickstart.toml)"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise BadInput(f"recipe {path} cannot be read: {reason}; give a TOML file") from None
    except (ValueError, RecursionError) as error:  # TOMLDecodeError, absurd numbers, absurd nesting
        raise BadInput(f"recipe {path} is not valid TOML: {error}") from None


def split_overrides(model: type[BaseModel], arguments: Sequence[str]) -> list[tuple[str, str]]:
    """Return `--a.b 1 --c.d=2` as [("a.b", "1"), ("c.d", "2")]. Raises BadInput."""
    pairs: list[tuple[str, str]] = []
    rest = list(arguments)
    while rest:
        flag = rest.pop(0)
        if not flag.startswith("--") or flag == "--":
            raise BadInput(
                f"argument {flag!r}: expected an override like --training.epochs 6 "
                "(one recipe comes first, then --section.key value pairs)"
            )
        key, equals, value = flag[2:].partition("=")
        if not equals and types(model, key) == {"boolean"} and (not rest or rest[0].startswith("--")):
            value = "true"
        elif not equals:
            if not rest:
                raise BadInput(f"--{key} has no value: write --{key} VALUE (see --help)")
            value = rest.pop(0)
        try:
            value.encode()
        except UnicodeEncodeError:
            raise BadInput(f"--{key} {value!r}: this is not text that UTF-8 can write; use another name") from None
        pairs.append((key, value))
    return pairs


def parse_value(model: type[BaseModel], key: str, text: str) -> Any:
    """Return the TOML value that `text` spells, or the text itself where the key holds text. `none` unsets a key."""
    possible = types(model, key)
    if text.lower() == "none" and "null" in possible:
        return None
    if "string" in possible and not ("array" in possible and text.startswith("[")):
        return text
    for spelling in (text, text.lower()):
        try:
            table = tomllib.loads(f"value = {spelling}")
        except (ValueError, RecursionError):
            continue
        if len(table) == 1:  # else the text went on to other keys
            return table["value"]
    try:
        return float(text)  # ".5" and "1." are Python, not TOML
    except ValueError:
        return text


def _put(table: Table, key: str, value: Any) -> None:
    *parents, last = key.split(".")
    for name in parents:
        below = table.setdefault(name, {})
        if not isinstance(below, dict):
            raise BadInput(f"--{key}: {name} is not a table in this recipe")
        table = cast(Table, below)
    table[last] = value


def _leaves(table: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for name, value in table.items():
        if isinstance(value, Mapping):
            yield from _leaves(cast(Mapping[str, Any], value), f"{prefix}{name}.")
        else:
            yield prefix + name
