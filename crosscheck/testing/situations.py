"""The situations in which `check_optimizer` tries an optimizer: parameters, their gradients, and what happens between steps."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor
from torch.nn import Parameter

from crosscheck.testing.situation import Situation

SHAPES: Mapping[str, tuple[int, ...]] = {"0-D": (), "1-D": (7,), "2-D": (5, 6), "4-D": (2, 3, 4, 5), "empty": (0,)}
_BESIDE = {torch.float32: torch.bfloat16}  # the format that "two dtypes" puts beside another; float32 beside the rest


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


class ReusedGradients(Situation):
    """Each gradient is written into the tensor of the one before, as it is after `zero_grad(set_to_none=False)`.

    State that shares its memory with a gradient then changes between two steps.
    """

    def gradient(self, name: str, step: int) -> Tensor | None:
        new, tensor = super().gradient(name, step), self.parameters[name].grad
        return new if new is None or tensor is None else tensor.copy_(new)


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
    "reused gradients": ReusedGradients,
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
