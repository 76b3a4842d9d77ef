"""Finds the state of a parameter, and the name of the slot for each piece of it."""

from collections.abc import Container, Mapping
from typing import Any

import torch
from torch import Tensor

from crosscheck.trace.format import RESERVED_SLOTS


def state_of(
    optimizer: torch.optim.Optimizer, parameter: Tensor, group: int, names: Mapping[str, str]
) -> Mapping[str, Any]:
    """Return the state of a parameter.

    Some optimizers, such as apex's FusedAdam, count the steps in the parameter group: that count stands for one of the
    tensor's own. `names`: the rule's name of each key, where they differ.
    """
    state: Mapping[str, Any] = optimizer.state.get(parameter, {})
    if not state or "step" in (names.get(key, key) for key in state):
        return state
    counts = {key: n for key, n in optimizer.param_groups[group].items() if names.get(key, key) == "step"}
    return {**counts, **state}


def slot_name(key: str, names: Mapping[str, str], state: Container[str]) -> str:
    """Return the name of the slot that a key of the state stands for. `names` has those that differ.

    Where `names` gives a slot to another key of the state, the key that is called as the slot is something else.
    """
    slot = names.get(key, key).replace("/", ".")  # a slash parts the names of arrays
    taken = key not in names and any(name == slot and other in state for other, name in names.items())
    return f"state {slot}" if taken or slot in RESERVED_SLOTS else slot
