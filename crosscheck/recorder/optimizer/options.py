"""The options of the parameter groups, read again only when one of them is another."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from crosscheck.recorder.optimizer.info import options_of
from crosscheck.recorder.optimizer.option_names import with_torch_names
from crosscheck.trace.format import Option

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
                options = with_torch_names(self._optimizer, number, self._rule, options_of(group))
                self._known.append((values, options))
        return tuple(options for _, options in self._known)


def _has_tensor(values: Mapping[str, Any]) -> bool:
    """Return whether any value is a tensor, which can change in place."""
    return any(
        isinstance(value, Tensor) or (isinstance(value, tuple) and any(isinstance(each, Tensor) for each in value))  # pyright: ignore[reportUnknownVariableType]
        for value in values.values()
    )
