"""pydantic's findings in the words of the person who wrote the recipe."""

from collections.abc import Mapping
from difflib import get_close_matches
from typing import cast

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from distrib.config.fields import listing, variants


def explain(error: ValidationError, model: type[BaseModel], origin: Mapping[str, str]) -> str:
    """One paragraph: each problem with its key, where it was set, its value and what is accepted."""
    return "; also ".join(_one(detail, model, origin) for detail in error.errors(include_url=False))


def _one(detail: ErrorDetails, model: type[BaseModel], origin: Mapping[str, str]) -> str:
    key, variant = _dotted(detail["loc"], model)
    where = f" (from {origin[key]})" if key in origin else ""
    kind, value = detail["type"], detail["input"]
    if kind == "extra_forbidden":
        return f"unknown key {key}{where}{_hint(key, variant, model)}"
    if kind == "missing" or kind == "union_tag_not_found":
        names = _names(key, model)
        return f"{key}.name is missing: set it to one of {names}" if names else f"{key} is missing: set it"
    if kind == "union_tag_invalid":
        chosen = cast(dict[str, object], value).get("name")
        return f"{key}.name = {chosen!r} is not known: accepted are {_names(key, model)}"
    message = detail["msg"].removeprefix("Value error, ").replace("Input should be", "it must be")
    if (kind == "value_error" and key in model.model_fields) or not key:
        return message  # a rule over several keys: the message names them
    return f"{key} = {value!r}{where}: {message}"


def _dotted(loc: tuple[int | str, ...], model: type[BaseModel]) -> tuple[str, str | None]:
    """Pydantic's location without the union tag it inserts after a section with variants."""
    parts = [str(part) for part in loc]
    if len(parts) > 1 and len(variants(model).get(parts[0], ())) > 1:
        tag = parts.pop(1)
        return ".".join(parts), tag
    return ".".join(parts), None


def _hint(key: str, variant: str | None, model: type[BaseModel]) -> str:
    owners = sorted({f.variant for f in listing(model) if f.key == key and f.variant})
    if owners and variant:
        return f": it belongs to {' and '.join(owners)}, and {key.split('.')[0]}.name is {variant}"
    known = [f.key for f in listing(model) if variant is None or f.variant in (None, variant)]
    sections = list(variants(model))
    near = get_close_matches(key, known + sections, n=1, cutoff=0.6)
    if not near:  # `--epochs 6`: the right name in the wrong place
        last = key.split(".")[-1]
        by_name = {k.split(".")[-1]: k for k in known}
        near = [by_name[name] for name in get_close_matches(last, list(by_name), n=1, cutoff=0.7)]
    if near:
        return f": did you mean {near[0]}?"
    section = key.split(".")[0]
    siblings = [k for k in known if k.startswith(section + ".")] or sections
    return f": accepted are {', '.join(siblings)}"


def _names(section: str, model: type[BaseModel]) -> str:
    classes = variants(model).get(section, ())
    if len(classes) < 2:
        return ""
    return ", ".join(str(cls.model_fields["name"].default) for cls in classes)
