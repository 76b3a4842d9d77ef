"""Are parameters and gradients finite? Steps on NaN may be right, but prove nothing: a warning says from which step on."""

import math

import numpy as np

from crosscheck.checks.check import Check
from crosscheck.trace.format import Option, Part
from crosscheck.trace.tensors import TensorBlock


class Finite(Check):
    """Looks for the first applied step whose gradients or new parameters are not finite."""

    def start(self) -> None:
        self._gradient: int | None = None  # the first step with a gradient that is not finite
        self._tensors: dict[str, tuple[int, tuple[int, ...]]] = {}  # by name: the first step, and an element
        self._all: set[str] = set()

    def part(self, part: Part, _: list[list[dict[str, Option]]]) -> None:
        if self._gradient is None:
            steps = (
                step.step
                for step in part.steps
                if step.applied and step.grad_norm is not None and not math.isfinite(step.grad_norm)
            )
            self._gradient = next(steps, None)

    def tensor(self, tensor: TensorBlock) -> None:
        name = tensor.info.name
        self._all.add(name)
        applied = tensor.applied
        steps = [tensor.steps[row].step for row in np.flatnonzero(applied & ~np.isfinite(tensor.grad).all(axis=1))]
        if steps:
            self._gradient = min(steps[0], self._gradient or steps[0])
        rows = np.flatnonzero(applied & ~np.isfinite(tensor.param.after).all(axis=1))
        if len(rows):
            row = int(rows[0])
            column = int(np.argmin(np.isfinite(tensor.param.after[row])))
            found = tensor.steps[row].step, tensor.position(column)
            self._tensors[name] = min(found, self._tensors.get(name, found))

    def finish(self) -> None:
        """Warn of what was found in this segment."""
        if self._gradient is not None:
            self.context.warnings.append(
                f"the gradients of step {self._gradient} are not finite, and the step was applied all the same"
            )
        if self._tensors:
            step, index, name = min((step, index, name) for name, (step, index) in self._tensors.items())
            self.context.warnings.append(
                f"parameters are not finite from step {step} on: {len(self._tensors)} of {len(self._all)} tensors, first "
                f"{name}{list(index)}; what steps make of them proves nothing"
            )
