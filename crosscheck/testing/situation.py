"""What is common to the situations in which `check_optimizer` tries an optimizer: its steps are taken, and recorded."""

import copy
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from traceback import walk_tb
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from crosscheck.recorder import Recorder
from crosscheck.recorder.optimizer.wrappers import unwrap
from crosscheck.testing.gradients import Draw

Make = Callable[[list[Parameter]], torch.optim.Optimizer]


class OptimizerRaised(Exception):
    """The optimizer under test raised `error`: when it was made, when it was given a second group or a state, or in a step."""

    def __init__(self, error: Exception) -> None:
        self.error = error
        first_line, _, _ = str(error).partition("\n")
        super().__init__(f"{type(error).__name__}: {first_line[:200]}")


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
        self.dtypes = {name: parameter.dtype for name, parameter in self.parameters.items()}
        """Those of the parameters before the first step."""
        self.first_gradients: dict[str, int] = {}
        """The step at which a parameter got its first gradient, of those that got one."""
        self.optimizer: torch.optim.Optimizer | None = None
        """The one that took the last steps."""

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
        """Take all steps and record them.

        Raises:
            OptimizerRaised: The optimizer raised an exception.
            UnsupportedOptimizer: The recorder cannot record what the optimizer does.
            ValueError: The optimizer does not hold every parameter.
        """
        optimizer, start = self._build(make), 1
        if self.resumes and self.half:
            self._record_steps(optimizer, range(1, self.half + 1), trace, recording)
            with _by_the_optimizer():
                state, start = copy.deepcopy(optimizer.state_dict()), self.half + 1
            optimizer = self._build(make)
            with _by_the_optimizer():
                optimizer.load_state_dict(state)
        self._record_steps(optimizer, range(start, self.steps + 1), trace, recording)

    def slots(self, name: str) -> list[str]:
        """Return the names of the state that the optimizer keeps for each element of a parameter."""
        parameter = self.parameters[name]
        state: dict[Any, dict[str, Any]] = {} if self.optimizer is None else unwrap(self.optimizer).state
        return [
            slot
            for slot, its in state.get(parameter, {}).items()
            if isinstance(its, Tensor) and its.shape == parameter.shape
        ]

    def _build(self, make: Make) -> torch.optim.Optimizer:
        added = {name: parameter for name, parameter in self.parameters.items() if self.in_second_group(name)}
        handed = [parameter for name, parameter in self.parameters.items() if name not in added]
        with _by_the_optimizer():
            optimizer = make(handed)
        inner = unwrap(optimizer)
        if added:
            first = inner.param_groups[0]
            params = list(added.items() if "param_names" in first else added.values())  # torch wants all named or none
            options = other_options(first)
            with _by_the_optimizer():
                optimizer.add_param_group({"params": params, **options})
        held = {id(parameter) for group in inner.param_groups for parameter in group["params"]}
        for name, parameter in self.parameters.items():
            if id(parameter) not in held:
                raise ValueError(
                    f"the optimizer was given the parameter {name!r}, which is in none of its groups: "
                    "let it hold every parameter that it is given, because no other one is checked"
                )
        self.optimizer = optimizer
        return optimizer

    def _record_steps(
        self, optimizer: torch.optim.Optimizer, steps: range, trace: Path, recording: Mapping[str, Any]
    ) -> None:
        with Recorder(
            optimizer,
            trace,
            named_parameters=self.parameters.items(),
            strict=True,  # otherwise the steps after an error would be missing, and those before it could match
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
                    if parameter.grad is not None:
                        self.first_gradients.setdefault(name, step)
                with _by_the_optimizer():
                    optimizer.step()


@contextmanager
def _by_the_optimizer() -> Generator[None]:
    """Raise OptimizerRaised for what the optimizer under test raises. What the recorder raises in its hooks stays as it is."""
    try:
        yield
    except Exception as error:
        modules = (frame.f_globals.get("__name__", "") for frame, _ in walk_tb(error.__traceback__))
        if any(module.startswith("crosscheck.recorder.") for module in modules):
            raise
        raise OptimizerRaised(error) from error


def other_options(group: Mapping[str, Any]) -> dict[str, Any]:
    """Return options for a second group that differ from these and are as usual; what is zero or absent stays so."""
    found: dict[str, Any] = {}
    for name, factor in {"lr": 0.3, "weight_decay": 2.0, "eps": 10.0, "dampening": 0.5}.items():
        if group.get(name):
            found[name] = group[name] * factor
    if group.get("momentum"):
        found["momentum"] = _further_from_one(group["momentum"])
    if group.get("betas"):
        found["betas"] = tuple(map(_further_from_one, group["betas"]))
    return found


def _further_from_one(decay: Any) -> Any:
    """Return a decay that forgets faster: 0.8 for 0.9."""
    return 2 * decay - 1 if decay > 0.6 else decay / 2
