"""Every key a recipe may hold, read off the section classes: for help, hints and parsing."""

from dataclasses import dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

_SIGNS = {Ge: ">=", Gt: ">", Le: "<=", Lt: "<"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Field:
    """One key as a user sees it."""

    key: str  # dotted: "training.epochs", "optimizer.groups.pattern"
    variant: str | None  # "sgd" where the key belongs to one `name` of a section
    annotation: Any
    default: Any  # PydanticUndefined where the key is required
    meaning: str
    accepts: str

    @property
    def optional(self) -> bool:
        return NoneType in _members(self.annotation)

    @property
    def takes_list(self) -> bool:
        return any(get_origin(member) is tuple for member in _members(self.annotation))


@cache
def variants(model: type[BaseModel]) -> dict[str, tuple[type[BaseModel], ...]]:
    """Return the classes of each section by its name: one, or one for each value of its key `name`."""
    return {
        name: tuple(member for member in _members(info.annotation) if _is_section(member))
        for name, info in model.model_fields.items()
    }


@cache
def listing(model: type[BaseModel]) -> tuple[Field, ...]:
    """Return all keys in recipe order. A key of several variants is listed once for each."""
    fields: list[Field] = []
    for section, classes in variants(model).items():
        for cls in classes:
            variant = variant_name(cls) if len(classes) > 1 else None
            for name, info in cls.model_fields.items():
                fields.append(_field(f"{section}.{name}", variant, info))
                for table in _tables(info.annotation):
                    fields += [
                        _field(f"{section}.{name}.{inner}", variant, inner_info)
                        for inner, inner_info in table.model_fields.items()
                    ]
    return tuple(fields)


def variant_name(cls: type[BaseModel]) -> str:
    """Return the value of the key `name` that chooses this class."""
    return str(cls.model_fields["name"].default)


@cache
def all_fields(model: type[BaseModel]) -> dict[str, Field]:
    """Return the field of each dotted key; of a key with several variants, any one of them."""
    return {field.key: field for field in listing(model)}


def takes_text(annotation: Any) -> bool:
    """Return whether values of this type are written as bare text on the command line."""
    return any(
        member is str or (get_origin(member) is Literal and isinstance(get_args(member)[0], str))
        for member in _members(annotation)
    )


def _field(key: str, variant: str | None, info: FieldInfo) -> Field:
    kinds = " or ".join(_kind(member) for member in _members(info.annotation))
    bounds = " and ".join(_bounds((*info.metadata, *_limits(info.annotation))))
    return Field(
        key=key,
        variant=variant,
        annotation=info.annotation,
        default=PydanticUndefined if info.is_required() else info.get_default(),
        meaning=" ".join((info.description or "").split()),
        accepts=f"{kinds} {bounds}".strip(),
    )


def _is_section(member: Any) -> bool:
    return isinstance(member, type) and issubclass(member, BaseModel)


def _tables(annotation: Any) -> list[type[BaseModel]]:
    """Return the classes of an array of tables."""
    return [arg for member in _members(annotation) for arg in get_args(member) if _is_section(arg)]


def _members(annotation: Any) -> tuple[Any, ...]:
    """Return the members of a union, or the type itself, without their Annotated wrapping."""
    if get_origin(annotation) is Annotated:
        return _members(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return tuple(inner for member in get_args(annotation) for inner in _members(member))
    return (annotation,)


def _limits(annotation: Any) -> list[Any]:
    """Return the bounds on the members of a union, such as `Annotated[float, Field(gt=0)] | None`."""
    if get_origin(annotation) is Annotated:
        return [limit for extra in get_args(annotation)[1:] for limit in getattr(extra, "metadata", [extra])]
    if get_origin(annotation) in (Union, UnionType):
        return [limit for member in get_args(annotation) for limit in _limits(member)]
    return []


def _bounds(limits: tuple[Any, ...]) -> list[str]:
    return [
        f"{_SIGNS[type(limit)]} {getattr(limit, type(limit).__name__.lower())}"
        for limit in limits
        if type(limit) in _SIGNS
    ]


def _kind(member: Any) -> str:
    if get_origin(member) is Annotated:
        return " ".join((_kind(get_args(member)[0]), *_bounds(tuple(_limits(member)))))
    if member is NoneType:
        return "none"
    if get_origin(member) is Literal:
        return " | ".join(str(value) for value in get_args(member))
    if get_origin(member) is tuple:
        if _tables(member):
            return "array of tables"
        inner = [_kind(arg) for arg in get_args(member) if arg is not Ellipsis]
        return "[" + ", ".join(inner) + (", …]" if Ellipsis in get_args(member) else "]")
    return {int: "integer", float: "number", str: "text", bool: "true | false"}.get(member, str(member))
