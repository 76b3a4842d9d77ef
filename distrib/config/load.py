"""Makes one checked configuration of a TOML recipe and `--section.key value` overrides, whatever its sections are."""

import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

from pydantic import BaseModel, ValidationError

from distrib.config.fields import types
from distrib.config.messages import COMMAND_LINE, explain
from distrib.config.variants import drop_replaced, replaced_variants
from distrib.errors import BadInput
from distrib.files import DISK_BROKEN, Unfit, read

Model = TypeVar("Model", bound=BaseModel)
TomlTable = dict[str, Any]

_LARGEST = 2**17  # bytes of a recipe; those of the project have less than a thousand
_DEEPEST = 6  # tables and arrays within each other; optimizer.groups has three


@dataclass(frozen=True, slots=True)
class Resolved(Generic[Model]):
    """A checked configuration, and how it came about."""

    config: Model
    origin: Mapping[str, str]  # by dotted key, where its value was set; a key that is not in it has its default
    notes: Sequence[str]  # what the person should know who gave the command


def load(model: type[Model], recipe: Path, overrides: Sequence[str] = ()) -> Model:
    """Return the configuration of a recipe and overrides, as `resolve` does."""
    return resolve(model, recipe, overrides).config


def resolve(model: type[Model], recipe: Path, overrides: Sequence[str] = ()) -> Resolved[Model]:
    """Read `recipe`, apply the overrides (`["--training.epochs", "6", …]`), check everything against `model`.

    Raises BadInput, with every problem found, in words that name the key and the fix; OSError for a disk that breaks.
    """
    given: TomlTable = {}
    for key, text in split_overrides(model, overrides):
        given[key] = parse_value(model, key, text)
        _expect_shallow({key: given[key]}, f"--{_cut(key)}")
    return resolve_values(model, recipe, given)


def resolve_values(
    model: type[Model], recipe: Path, given: Mapping[str, Any], source: str = COMMAND_LINE
) -> Resolved[Model]:
    """Read `recipe`, put the values that are given by dotted key in the place of its own, and check everything against `model`.

    `source` says in messages where the values are from. Raises as `resolve` does.
    """
    table = read_toml(recipe)
    replaced = list(replaced_variants(model, table, given))
    if replaced:
        _expect_known_keys(model, table, str(recipe))  # before some of them go
    notes = drop_replaced(replaced, table, given, str(recipe), source)
    origin = dict.fromkeys(_leaves(table), str(recipe)) | dict.fromkeys(given, source)
    for key, value in given.items():
        _put(table, key, value, source)
    try:
        return Resolved(model.model_validate(table), origin, notes)
    except ValidationError as error:
        raise BadInput(explain(error.errors(include_url=False), model, origin, str(recipe))) from None


def read_toml(path: Path) -> TomlTable:
    """Return what a TOML file holds. Raises BadInput, or OSError for a disk that breaks."""
    try:
        table = tomllib.loads(read(path, _LARGEST).decode("utf-8"))
    except FileNotFoundError:
        raise BadInput(
            f"recipe {path}: there is no such file; the recipes that come with the project "
            "are in launch/recipes/ (try launch/recipes/quickstart.toml)"
        ) from None
    except (OSError, Unfit, UnicodeDecodeError) as error:
        if isinstance(error, OSError) and error.errno in DISK_BROKEN:
            raise
        reason = "it is not UTF-8 text" if isinstance(error, UnicodeDecodeError) else getattr(error, "strerror", error)
        raise BadInput(f"recipe {path} cannot be read: {reason}; give a TOML file") from None
    except (ValueError, RecursionError) as error:  # TOMLDecodeError, absurd numbers, absurd nesting
        raise BadInput(f"recipe {path} is not valid TOML: {error}") from None
    _expect_shallow(table, f"recipe {path}")
    return table


def split_overrides(model: type[BaseModel], arguments: Sequence[str]) -> list[tuple[str, str]]:
    """Return `--a.b 1 --c.d=2` as [("a.b", "1"), ("c.d", "2")]. Raises BadInput."""
    pairs: list[tuple[str, str]] = []
    rest = list(arguments)
    while rest:
        flag = rest.pop(0)
        if not flag.startswith("--") or flag == "--":
            raise BadInput(
                f"argument {flag!r} of the command line: expected an override like --training.epochs 6 "
                "(one recipe comes first, then --section.key value pairs)"
            )
        key, equals, value = flag[2:].partition("=")
        if key.count(".") >= _DEEPEST:
            raise BadInput(f"--{_cut(key)}: there is no such key; keys are like training.epochs (see --help)")
        alone = not equals and (not rest or rest[0].startswith("--"))
        if alone and {"boolean"} <= types(model, key) <= {"boolean", "null"}:
            value = "true"
        elif alone:
            raise BadInput(
                f"--{key} has no value: write --{key} VALUE, or --{key}=VALUE if it begins with -- (see --help)"
            )
        elif not equals:
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


def _expect_shallow(table: TomlTable, what: str) -> None:
    """Raise BadInput for tables and arrays within each other beyond any recipe's: what walks through them has a limited depth."""
    level: list[Any] = [table]
    for _ in range(_DEEPEST):
        level = [
            inner
            for outer in level
            for inner in (cast(TomlTable, outer).values() if isinstance(outer, dict) else cast(list[Any], outer))
            if isinstance(inner, (dict, list))
        ]
        if not level:
            return
    raise BadInput(f"{what}: tables and arrays are nested more than {_DEEPEST} levels deep, and no key is (see --help)")


def _expect_known_keys(model: type[BaseModel], table: TomlTable, recipe: str) -> None:
    """Raise BadInput for keys of the recipe that do not exist, or do not belong to the variant that it names itself."""
    try:
        model.model_validate(table)
    except ValidationError as error:
        unknown = [detail for detail in error.errors(include_url=False) if detail["type"] == "extra_forbidden"]
        if unknown:
            raise BadInput(explain(unknown, model, dict.fromkeys(_leaves(table), recipe), recipe)) from None


def _cut(key: str) -> str:
    return key if len(key) <= 100 else key[:100] + "…"


def _put(table: TomlTable, key: str, value: Any, source: str) -> None:
    *parents, last = key.split(".")
    for name in parents:
        below = table.setdefault(name, {})
        if not isinstance(below, dict):
            raise BadInput(f"{key} from {source}: {name} is not a table in this recipe")
        table = cast(TomlTable, below)
    table[last] = value


def _leaves(table: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for name, value in table.items():
        if isinstance(value, Mapping):
            yield from _leaves(cast(Mapping[str, Any], value), f"{prefix}{name}.")
        else:
            yield prefix + name
