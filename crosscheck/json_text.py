"""Writes JSON that every reader takes, laid out for people too."""

import json
import math
from typing import Any


def strict_json(value: Any) -> str:
    """Write a value as JSON, which has no infinities and no NaN: they become the strings inf, -inf and nan.

    A list of numbers and words is one line.
    """
    return _lines_of_json(_plain(value), "\n")


def _lines_of_json(value: Any, newline: str) -> str:
    """Write a plain value; `newline` is what a line of it begins with."""
    inner = f"{newline}  "
    if isinstance(value, dict) and value:
        each = (f"{_in_one_line(name)}: {_lines_of_json(member, inner)}" for name, member in value.items())  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
        return f"{{{inner}{f',{inner}'.join(each)}{newline}}}"
    if isinstance(value, list) and any(isinstance(member, dict) for member in value):  # pyright: ignore[reportUnknownVariableType]
        return f"[{inner}{f',{inner}'.join(_lines_of_json(member, inner) for member in value)}{newline}]"  # pyright: ignore[reportUnknownVariableType]
    return _in_one_line(value)


def _in_one_line(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def _plain(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {str(name): _plain(member) for name, member in value.items()}  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    if isinstance(value, list | tuple):
        return [_plain(member) for member in value]  # pyright: ignore[reportUnknownVariableType]
    return value
