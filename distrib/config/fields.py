"""Reads every key that a recipe may hold off the section classes, for help, hints and parsing."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from pydantic import BaseModel

Schema = Mapping[str, Any]
"""What JSON schema says of the values of one key."""

_SIGNS = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}
_WORDS = {
    "integer": "integer",
    "number": "number",
    "string": "text",
    "boolean": "true | false",
    "null": "none",
    "object": "table",
}


@dataclass(frozen=True, slots=True)
class Table:
    """One table of a recipe as a user sees it."""

    section: str
    name: str | None  # "sgd" where the section has several tables, and its key `name` chooses one
    summary: str
    fields: Mapping[str, Schema]  # by dotted key: "training.epochs", "optimizer.groups.pattern"


@cache
def tables(model: type[BaseModel]) -> tuple[Table, ...]:
    """Return all tables in recipe order."""
    schema = model.model_json_schema()
    found: list[Table] = []
    for section, own in schema["properties"].items():
        for reference in own.get("oneOf", [own]):
            table = _definition(reference, schema)
            name = table["properties"]["name"]["const"] if "oneOf" in own else None
            fields = dict(_fields(section, table, schema))
            found.append(Table(section, name, table["description"].splitlines()[0], fields))
    return tuple(found)


@cache
def all_fields(model: type[BaseModel]) -> dict[str, Schema]:
    """Return the schema of each dotted key; of a key with several variants, any one of them."""
    return {key: schema for table in tables(model) for key, schema in table.fields.items()}


def types(model: type[BaseModel], key: str) -> set[str]:
    """Return the JSON types that the key's values may have, such as string and null; none for an unknown key."""
    return {member["type"] for member in _members(all_fields(model).get(key, {"anyOf": []}))}


def accepted(schema: Schema) -> str:
    """Return in words what values a key takes, such as `number or none > 0`."""
    kinds = " or ".join(_kind(member) for member in _members(schema))
    bounds = " and ".join(bound for member in _members(schema) for bound in _bounds(member))
    return f"{kinds} {bounds}".strip()


def _fields(prefix: str, table: Schema, schema: Schema) -> Iterator[tuple[str, Schema]]:
    properties = table["properties"]
    # The name comes first, because it chooses among the section's tables.
    first = {name: properties[name] for name in ("name",) if name in properties}
    for name, own in (first | properties).items():
        yield f"{prefix}.{name}", own
        if "$ref" in own.get("items", ()):  # an array of tables
            yield from _fields(f"{prefix}.{name}", _definition(own["items"], schema), schema)


def _definition(reference: Schema, schema: Schema) -> Schema:
    return schema["$defs"][reference["$ref"].rpartition("/")[2]]


def _members(schema: Schema) -> list[Schema]:
    return schema.get("anyOf", [schema])


def _bounds(member: Schema) -> list[str]:
    return [f"{sign} {member[word]}" for word, sign in _SIGNS.items() if word in member]


def _kind(member: Schema) -> str:
    if "const" in member:
        return member["const"]
    if "enum" in member:
        return " | ".join(member["enum"])
    if member["type"] != "array":
        return _WORDS[member["type"]]
    if "$ref" in member.get("items", ()):
        return "array of tables"
    inner = [" ".join((_kind(item), *_bounds(item))) for item in member.get("prefixItems") or [member["items"]]]
    return "[" + ", ".join(inner) + ("]" if "prefixItems" in member else ", …]")
