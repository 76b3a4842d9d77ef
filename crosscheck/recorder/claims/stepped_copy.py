"""Steps a copy of a scheduler that has no formula, to know the rate that it claims for each step."""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch.optim.lr_scheduler import LRScheduler

from crosscheck.errors import TraceError


class SteppedCopy:
    """Gives the rate of each group after so many applied updates, by the scheduler's own code.

    The user's function, of a LambdaLR for one, is called by the copy as well as by the scheduler itself.
    """

    def __init__(self, scheduler: LRScheduler, optimizer: torch.optim.Optimizer, *, every: int, applied: int) -> None:
        """Copy the scheduler as it stands. Raises TraceError if it cannot be copied.

        Args:
            scheduler: One of torch's, or of a class of the user's own that is derived from it.
            optimizer: The one that it schedules, which the copy leaves alone.
            every: After how many applied updates the loop steps it.
            applied: Updates applied so far.
        """
        self._every, self._applied = every, applied
        self._optimizer = _rates_only(optimizer)
        given: Any = scheduler.optimizer
        try:
            self._scheduler = copy.deepcopy(scheduler, {id(optimizer): self._optimizer, id(given): self._optimizer})
        except Exception as error:
            raise TraceError(
                f"scheduler: this {type(scheduler).__name__} cannot be copied ({type(error).__name__}: {error}), and without a "
                "copy nothing tells what its rates should be; leave scheduler= out, or claim a schedule that has a formula"
            ) from error
        self._failure = ""  # what the scheduler's own code raised
        self._warned = False

    def rates(self, warn: Callable[[str], None]) -> list[float]:
        """Return the rate of each group for the coming update; NaN, of which `warn` is told,
        once the scheduler's code has failed.
        """
        if not self._failure:
            return [float(group["lr"]) for group in self._optimizer.param_groups]
        if not self._warned:  # only now: the rate that follows the last update of a run is never used
            self._warned = True
            warn(
                f"crosscheck: the learning rate is not checked after {self._applied:,} applied updates: a copy of the "
                f"{type(self._scheduler).__name__} raised {self._failure}"
            )
        return [float("nan")] * len(self._optimizer.param_groups)

    def applied(self) -> None:
        """Count an update that was applied, and step the copy if the loop should step the scheduler now."""
        self._applied += 1
        if self._applied % self._every or self._failure:
            return
        try:
            self._scheduler.step()
        # The user's function fails beyond its end, for one. Then the loop's own scheduler raises by itself.
        except Exception as error:
            self._failure = f"{type(error).__name__}: {error}"


def _rates_only(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """Return an optimizer that has the options of all groups, each with one number to step."""
    made = torch.optim.SGD([torch.nn.Parameter(torch.zeros((), device="cpu"))], lr=0.0)
    made.defaults = dict(optimizer.defaults)
    made.param_groups = [
        {
            name: value.detach().clone() if isinstance(value, torch.Tensor) else copy.copy(value)
            for name, value in group.items()
            if name not in ("params", "param_names")
        }
        | {"params": []}
        for group in optimizer.param_groups
    ]

    def step() -> None:
        pass

    vars(step)["_wrapped_by_lr_sched"] = True  # schedulers warn where they were not told of steps
    vars(made)["step"] = step
    made._opt_called = True  # pyright: ignore[reportAttributeAccessIssue]
    return made
