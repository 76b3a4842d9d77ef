"""The steps of a run, each held against the reference while it is taken."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import Parameter

from tests.crosscheck.generated import reference
from tests.crosscheck.generated.mistaken import HALVES, Mistaken
from tests.crosscheck.generated.settings import STEPS, Setting


@dataclass
class Trajectory:
    """What a run did."""

    excess: float = 0.0
    """The largest distance of a recorded number from the exact one, in units of what rounding explains."""
    where: str = "nothing"
    moved: dict[str, float] = field(default_factory=dict[str, float])
    """By tensor: how far a parameter that stays where it is would be from the exact one, in the same units."""
    error: float = 0.0
    """The largest error of a step of a tensor, relative to what the step should change."""
    end: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    """The parameters by name, and the state by `tensor/slot`, after the last step."""

    def exceeds(self, excess: float, where: str) -> None:
        """Remember where the largest distance was."""
        if excess > self.excess:
            self.excess, self.where = excess, where


def take_steps(setting: Setting, optimizer: Any, parameters: dict[str, Parameter], *, watch: bool) -> Trajectory:
    """Take the steps of a run. `watch`: hold each against the reference, which takes most of the time."""
    found = Trajectory()
    if any(value.any() for name, value in numbers(optimizer, parameters).items() if "/" in name):
        found.exceeds(np.inf, "the start")
    for step in range(1, STEPS + 1):
        for name, p in parameters.items():
            p.grad = setting.gradient(name, step)
        before = [_before(setting.rule, optimizer, p) for p in parameters.values() if watch]
        optimizer.step()
        for (name, p), start in zip(parameters.items(), before, strict=False):
            _compare(found, setting, f"step {step}, {name}", name, start, optimizer.state[p], _values(optimizer, p))
        after = numbers(optimizer, parameters)
        if isinstance(optimizer, Mistaken):
            optimizer.between()
            if step < STEPS and not _same(after, numbers(optimizer, parameters)):
                found.exceeds(np.inf, f"between steps {step} and {step + 1}")
        for group in optimizer.param_groups:
            group["lr"] *= setting.factor
    found.end = numbers(optimizer, parameters)
    return found


def numbers(optimizer: Any, parameters: dict[str, Parameter]) -> dict[str, Tensor]:
    """Return copies of the parameters by name, and of their state by `tensor/slot`."""
    found = {name: p.detach().clone() for name, p in parameters.items()}
    for name, p in parameters.items():
        state: dict[str, Tensor | None] = optimizer.state.get(p, {})
        found |= {f"{name}/{slot}": value.clone() for slot, value in state.items() if value is not None}
    return found


def _before(rule: str, optimizer: Any, p: Parameter) -> reference.Before:
    (group,) = [group for group in optimizer.param_groups if any(p is other for other in group["params"])]
    assert p.grad is not None
    values = {**_values(optimizer, p), "grad": _float64(p.grad)}
    return reference.Before(rule, dict(group), values, int(optimizer.state.get(p, {}).get("step", 0)))


def _values(optimizer: Any, p: Parameter) -> dict[str, reference.Values]:
    state: dict[str, Tensor | None] = optimizer.state.get(p, {})
    slots = {name: _float64(slot) for name, slot in state.items() if name != "step" and slot is not None}
    return {"param": _float64(p), **slots}


def _float64(tensor: Tensor) -> reference.Values:
    return tensor.detach().double().numpy().copy()


def _compare(
    found: Trajectory,
    setting: Setting,
    where: str,
    name: str,
    before: reference.Before,
    state: dict[str, Any],
    after: dict[str, reference.Values],
) -> None:
    """Note how far a step of one tensor is from the exact one."""
    wide = setting.implementation == "fused" and setting.dtype in HALVES
    arithmetic: Any = {"dtype": str(setting.dtype)[6:], "computed_wide": wide}
    for slot, ratio in reference.excess(before, after, **arithmetic).items():
        found.exceeds(float(ratio.max()), f"{where}, {slot}")
    if state.get("step", before.count + 1) != before.count + 1:
        found.exceeds(np.inf, f"{where}, the count of steps")
    found.error = max(found.error, reference.error_of(before, after))
    found.moved[name] = max(found.moved.get(name, 0.0), reference.unmoved(before, **arithmetic))


def _same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(
        torch.equal(one[name].nan_to_num(), other[name].nan_to_num()) for name in one
    )
