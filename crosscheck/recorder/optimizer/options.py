"""Reads the options of the parameter groups, again only when one of them has changed."""

from collections.abc import Mapping
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from crosscheck.recorder.optimizer.option_names import with_torch_names
from crosscheck.trace.format import ROUNDOFF_OF, Option

_NOT_OPTIONS = ("params", "param_names")


class Options:
    """Reads the options of an optimizer. As long as a group's stay as they are, the answer is the same object."""

    def __init__(self, optimizer: torch.optim.Optimizer, rule: str) -> None:
        self._optimizer, self._rule = optimizer, rule
        self._known: list[tuple[Mapping[str, Any], dict[str, Option]]] = []

    def read(self) -> tuple[dict[str, Option], ...]:
        """Return the options of each group; reading one that is a tensor on a GPU waits.

        Raises UnsupportedOptimizer for options that are not those of the rule.
        """
        known = self._known
        self._known = []
        for number, group in enumerate(self._optimizer.param_groups):
            values: dict[str, Any] = {
                name: tuple(value) if isinstance(value, list) else value  # pyright: ignore[reportUnknownArgumentType]
                for name, value in group.items()
                if name not in _NOT_OPTIONS
            }
            if number < len(known) and not _has_tensor(values) and known[number][0] == values:
                self._known.append(known[number])
            else:
                options = with_torch_names(self._optimizer, number, self._rule, _options_of(group))
                self._known.append((values, options))
        return tuple(options for _, options in self._known)


def _has_tensor(values: Mapping[str, Any]) -> bool:
    """Return whether any value is a tensor, which can change in place."""
    return any(
        isinstance(value, Tensor) or (isinstance(value, tuple) and any(isinstance(each, Tensor) for each in value))  # pyright: ignore[reportUnknownVariableType]
        for value in values.values()
    )


def _options_of(group: Mapping[str, Any]) -> dict[str, Option]:
    """Return every option of a parameter group that is a number, a flag or a few numbers; reading a CUDA tensor waits."""
    found: dict[str, Option] = {}
    for name, value in group.items():
        if name in _NOT_OPTIONS:
            continue
        roundoffs = [_roundoff(member) for member in (value if isinstance(value, list | tuple) else [value])]  # pyright: ignore[reportUnknownVariableType]
        if any(roundoffs):
            found[name + ROUNDOFF_OF] = max(roundoffs)
        if isinstance(value, list | tuple):
            members = [_number(member) for member in value]  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
            if all(isinstance(member, int | float) for member in members):
                found[name] = tuple(float(member) for member in members if member is not None)
        elif value is None or isinstance(_number(value), bool | int | float):
            found[name] = _number(value)
    return found


def _number(value: Any) -> bool | int | float | None:
    if isinstance(value, Tensor):
        return float(value.detach()) if value.numel() == 1 else None
    plain = cast(Any, value).item() if isinstance(value, np.generic) else value
    return plain if isinstance(plain, bool | int | float) else None


def _roundoff(value: Any) -> float:
    """Return the unit roundoff of the format that a tensor, or a number of NumPy's, has.

    It is 0 for a plain number and for NumPy's float64, because these are computed with in float64.
    """
    if isinstance(value, np.generic):
        dtype = cast(Any, value).dtype
        return float(np.finfo(dtype).eps) / 2 if dtype.kind == "f" and dtype.itemsize < 8 else 0.0
    return torch.finfo(value.dtype).eps / 2 if isinstance(value, Tensor) and value.is_floating_point() else 0.0
