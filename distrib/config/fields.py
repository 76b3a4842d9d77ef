"""Every key a recipe may hold, read off the section classes: for help, hints and parsing."""

from dataclasses import dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined


@dataclass(frozen=True, kw_only=True, slots=True)
class Field:
    """One key as a user sees it."""

    key: str  # dotted: "training.epochs"
    variant: str | None  # "sgd" where the key belongs to one `name` of a section
    annotation: Any
    default: Any  # PydanticUndefined where the key is required
    meaning: str
    accepts: str

    @property
    def optional(self) -> bool:
        return NoneType in _members(self.annotation)


@cache
def variants(model: type[BaseModel]) -> dict[str, tuple[type[BaseModel], ...]]:
    """Section name -> its classes: one, or one per value of `name`."""
    sections: dict[str, tuple[type[BaseModel], ...]] = {}
    for name, info in model.model_fields.items():
        classes = tuple(c for c in _members(info.annotation) if isinstance(c, type) and issubclass(c, BaseModel))
        sections[name] = classes
    return sections


@cache
def listing(model: type[BaseModel]) -> tuple[Field, ...]:
    """All keys in recipe order; a key of several variants is listed once for each."""
    fields: list[Field] = []
    for section, classes in variants(model).items():
        for cls in classes:
            tag = get_args(cls.model_fields["name"].annotation)[0] if len(classes) > 1 else None
            for name, info in cls.model_fields.items():
                if len(classes) > 1 and name == "name":
                    continue
                fields.append(_field(f"{section}.{name}", tag, info))
    return tuple(fields)


def all_fields(model: type[BaseModel]) -> dict[str, Field]:
    """Dotted key -> field (any one of its variants); the `name` of a section with variants too."""
    found = {field.key: field for field in listing(model)}
    for section, classes in variants(model).items():
        if len(classes) > 1:
            info = classes[0].model_fields["name"]
            found.setdefault(f"{section}.name", _field(f"{section}.name", None, info))
    return found


def takes_text(annotation: Any) -> bool:
    """Whether values of this type are written as bare text on the command line."""
    return any(
        member is str or (get_origin(member) is Literal and isinstance(get_args(member)[0], str))
        for member in _members(annotation)
    )


def _field(key: str, variant: str | None, info: FieldInfo) -> Field:
    return Field(
        key=key,
        variant=variant,
        annotation=info.annotation,
        default=PydanticUndefined if info.is_required() else info.get_default(),
        meaning=" ".join((info.description or "").split()),
        accepts=_accepts(info),
    )


def _members(annotation: Any) -> tuple[Any, ...]:
    if get_origin(annotation) is Annotated:
        return _members(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return tuple(inner for member in get_args(annotation) for inner in _members(member))
    return (annotation,)


def _accepts(info: FieldInfo) -> str:
    kinds = [_kind(member) for member in _members(info.annotation)]
    signs = {Ge: ">=", Gt: ">", Le: "<=", Lt: "<"}
    bounds = [
        f"{signs[type(limit)]} {getattr(limit, type(limit).__name__.lower())}"
        for limit in (*info.metadata, *_limits(info.annotation))
        if type(limit) in signs
    ]
    return " or ".join(kinds) + (" " + " and ".join(bounds) if bounds else "")


def _limits(annotation: Any) -> list[Any]:
    """Bounds on the members of a union: `Annotated[float, Field(gt=0)] | None`."""
    if get_origin(annotation) is Annotated:
        return [limit for extra in get_args(annotation)[1:] for limit in getattr(extra, "metadata", [extra])]
    if get_origin(annotation) in (Union, UnionType):
        return [limit for member in get_args(annotation) for limit in _limits(member)]
    return []


def _kind(member: Any) -> str:
    if member is NoneType:
        return "none"
    if get_origin(member) is Literal:
        return " | ".join(str(value) for value in get_args(member))
    if get_origin(member) is tuple:
        inner = [arg for arg in get_args(member) if arg is not Ellipsis]
        if any(isinstance(arg, type) and issubclass(arg, BaseModel) for arg in inner):
            return "array of tables"
        return "[" + ", ".join(_kind(arg) for arg in inner) + (", …]" if Ellipsis in get_args(member) else "]")
    return {int: "integer", float: "number", str: "text", bool: "true | false"}.get(member, str(member))
