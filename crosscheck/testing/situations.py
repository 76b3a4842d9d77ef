"""The situations in which `check_optimizer` tries an optimizer: parameters, their gradients, and what happens between the steps."""

import copy
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from crosscheck.recorder import Recorder
from crosscheck.testing.gradients import Draw

Make = Callable[[list[Parameter]], torch.optim.Optimizer]

SHAPES: Mapping[str, tuple[int, ...]] = {"0-D": (), "1-D": (7,), "2-D": (5, 6), "4-D": (2, 3, 4, 5), "empty": (0,)}
_BESIDE = {torch.float32: torch.bfloat16}  # the format that "two dtypes" puts beside another; float32 beside the rest


class Situation:
    """Two vectors in one group, with a gradient at each step. Each subclass overrides that in which it differs."""

    changes_rate = False
    """The learning rate of every group falls in the middle, as a scheduler would have it."""
    resumes = False
    """In the middle a new optimizer takes over the state of the first one, as in a run that is resumed."""

    def __init__(self, dtype: torch.dtype, *, steps: int, seed: int) -> None:
        self.steps, self.half = steps, steps // 2
        """How many steps are taken, and after which of them a state is loaded."""
        self.turn = max(2, self.half)
        """The step at which all else changes: before a state is loaded, which could hide it where both are tried."""
        self.draw = Draw(seed)
        self.parameters = self.make_parameters(dtype)

    def make_parameters(self, dtype: torch.dtype) -> dict[str, Parameter]:
        """Return the parameters by the names that a report is to call them."""
        return self.vectors(dtype, "1-D", "another 1-D")

    def vectors(self, dtype: torch.dtype, *names: str) -> dict[str, Parameter]:
        return {name: self.draw.parameter((24,), dtype) for name in names}

    def in_second_group(self, name: str) -> bool:
        """Return whether a parameter is in a group that is added, with options of its own."""
        del name
        return False

    def gradient(self, name: str, step: int) -> Tensor | None:
        """Return the gradient of a parameter at a step, or None."""
        del step
        return self.draw.gradient(self.parameters[name], "typical")

    def record(self, make: Make, trace: Path, **recording: Any) -> None:
        """Take all steps and record them."""
        optimizer, start = self._build(make), 1
        if self.resumes and self.half:
            self._record_steps(optimizer, range(1, self.half + 1), trace, recording)
            state, start = copy.deepcopy(optimizer.state_dict()), self.half + 1
            optimizer = self._build(make)
            optimizer.load_state_dict(state)
        self._record_steps(optimizer, range(start, self.steps + 1), trace, recording)

    def _build(self, make: Make) -> torch.optim.Optimizer:
        added = [parameter for name, parameter in self.parameters.items() if self.in_second_group(name)]
        optimizer = make([parameter for name, parameter in self.parameters.items() if not self.in_second_group(name)])
        if added:
            optimizer.add_param_group({"params": added, **other_options(optimizer.param_groups[0])})
        return optimizer

    def _record_steps(
        self, optimizer: torch.optim.Optimizer, steps: range, trace: Path, recording: Mapping[str, Any]
    ) -> None:
        with Recorder(
            optimizer,
            trace,
            named_parameters=self.parameters.items(),
            append=steps.start > 1,
            first_step=steps.start,
            **recording,
        ):
            for step in steps:
                if self.changes_rate and step == self.turn:
                    for group in optimizer.param_groups:
                        group["lr"] = group["lr"] * 0.3
                for name, parameter in self.parameters.items():
                    parameter.grad = self.gradient(name, step)
                optimizer.step()


class Vectors(Situation):
    """One vector for each regime of gradients."""

    def __init__(self, dtype: torch.dtype, *, steps: int, seed: int, size: int, regimes: Iterable[str]) -> None:
        self._size, self._regimes = size, tuple(regimes)
        super().__init__(dtype, steps=steps, seed=seed)

    def make_parameters(self, dtype: torch.dtype) -> dict[str, Parameter]:
        return {regime: self.draw.parameter((self._size,), dtype) for regime in self._regimes}

    def gradient(self, name: str, step: int) -> Tensor | None:
        del step
        return self.draw.gradient(self.parameters[name], name)


class Shapes(Situation):
    """Every shape, channels-last too. The gradient of one matrix is orthogonal to each of its rows, as behind a norm layer."""

    def make_parameters(self, dtype: torch.dtype) -> dict[str, Parameter]:
        found = {name: self.draw.parameter(shape, dtype) for name, shape in SHAPES.items()}
        laid_out = found["4-D"].detach().clone(memory_format=torch.channels_last)
        return {**found, "4-D channels-last": Parameter(laid_out), "2-D orthogonal": self.draw.parameter((5, 6), dtype)}

    def gradient(self, name: str, step: int) -> Tensor | None:
        found = super().gradient(name, step)
        if name != "2-D orthogonal" or found is None:
            return found
        wide, rows = found.double(), self.parameters[name].detach().double()
        along = (wide * rows).sum(1, keepdim=True) / rows.square().sum(1, keepdim=True)
        return (wide - along * rows).to(found.dtype)


class TwoDtypes(Situation):
    """Parameters of two formats in one group."""

    def make_parameters(self, dtype: torch.dtype) -> dict[str, Parameter]:
        return {
            f"{name} {str(of).removeprefix('torch.')}": self.draw.parameter(SHAPES[name], of)
            for of in (dtype, _BESIDE.get(dtype, torch.float32))
            for name in ("1-D", "2-D")
        }


class TwoGroups(Situation):
    """A second group is added, with options of its own."""

    def make_parameters(self, dtype: torch.dtype) -> dict[str, Parameter]:
        return self.vectors(dtype, "first group", "second group")

    def in_second_group(self, name: str) -> bool:
        return name == "second group"


class ZeroGradients(Situation):
    """All gradients of a tensor are zero, always or at first."""

    def make_parameters(self, dtype: torch.dtype) -> dict[str, Parameter]:
        return {
            name: self.draw.parameter((24,), dtype) for name in ("1-D", "zero gradients", "zero gradients at first")
        }

    def gradient(self, name: str, step: int) -> Tensor | None:
        zero = name == "zero gradients" or (name == "zero gradients at first" and step < self.turn)
        return torch.zeros_like(self.parameters[name], requires_grad=False) if zero else super().gradient(name, step)


class AbsentGradients(Situation):
    """A tensor never has a gradient, another one at every second step only."""

    def make_parameters(self, dtype: torch.dtype) -> dict[str, Parameter]:
        return self.vectors(dtype, "1-D", "no gradient", "a gradient now and then")

    def gradient(self, name: str, step: int) -> Tensor | None:
        absent = name == "no gradient" or (name == "a gradient now and then" and step % 2 == 0)
        return None if absent else super().gradient(name, step)


class LateGradients(Situation):
    """A tensor has its first gradient when the other has had some."""

    def make_parameters(self, dtype: torch.dtype) -> dict[str, Parameter]:
        return self.vectors(dtype, "1-D", "a late gradient")

    def gradient(self, name: str, step: int) -> Tensor | None:
        absent = name == "a late gradient" and step < self.turn
        return None if absent else super().gradient(name, step)


class ChangedRate(Situation):
    changes_rate = True


class LoadedState(Situation):
    resumes = True


SITUATIONS: Mapping[str, type[Situation]] = {
    "shapes": Shapes,
    "two dtypes": TwoDtypes,
    "two groups": TwoGroups,
    "zero gradients": ZeroGradients,
    "absent gradients": AbsentGradients,
    "late gradients": LateGradients,
    "changed rate": ChangedRate,
    "loaded state": LoadedState,
}
"""Those that are tried beside the vectors, by the names that a report gives them."""


class AllAtOnce(Situation):
    """Several situations with one optimizer: if it matches here, one replay is enough for all of them."""

    def __init__(self, parts: Mapping[str, Situation]) -> None:
        self._parts = {f"{which}, {name}": (part, name) for which, part in parts.items() for name in part.parameters}
        self.changes_rate = any(part.changes_rate for part in parts.values())
        self.resumes = any(part.resumes for part in parts.values())
        super().__init__(torch.float32, steps=max(part.steps for part in parts.values()), seed=0)

    def make_parameters(self, dtype: torch.dtype) -> dict[str, Parameter]:
        del dtype  # each part has its own
        return {name: part.parameters[its] for name, (part, its) in self._parts.items()}

    def in_second_group(self, name: str) -> bool:
        part, its = self._parts[name]
        return part.in_second_group(its)

    def gradient(self, name: str, step: int) -> Tensor | None:
        part, its = self._parts[name]
        return part.gradient(its, step)


def other_options(group: Mapping[str, Any]) -> dict[str, Any]:
    """Return options for a second group that differ from these and are as usual; what is zero or absent stays so."""
    found: dict[str, Any] = {}
    for name, factor in {"lr": 0.3, "weight_decay": 2.0, "eps": 10.0, "dampening": 0.5}.items():
        if group.get(name):
            found[name] = group[name] * factor
    if group.get("momentum"):
        found["momentum"] = _further_from_one(group["momentum"])
    if "betas" in group:
        found["betas"] = tuple(map(_further_from_one, group["betas"]))
    return found


def _further_from_one(decay: Any) -> Any:
    """Return a decay that forgets faster: 0.8 for 0.9."""
    return 2 * decay - 1 if decay > 0.6 else decay / 2
