"""A loss scaler, seen while it works: which steps it skips, and whose gradients overflowed."""

from collections.abc import Callable
from typing import Any

import torch


class ScalerWatch:
    """Tells when a loss scaler skips a step without calling the optimizer, which no hook of the optimizer sees.

    `torch.amp.GradScaler` has no hooks, so `step` and `update` of this one scaler are replaced until `remove` is called.
    """

    def __init__(self, scaler: torch.amp.GradScaler, optimizer: torch.optim.Optimizer) -> None:
        self._scaler, self._optimizer = scaler, optimizer
        self._others: list[torch.optim.Optimizer] = []  # that were stepped since the last update
        self._elsewhere, self._watching = False, True
        self._replaced: dict[str, tuple[Any, Any]] = {}  # by name: the method put there, and what was in its place

    def start(self, steps: Callable[[], int], on_skip: Callable[[], None]) -> None:
        """Begin. `steps` is to return how many steps were seen so far; `on_skip` is called for one that was not taken."""
        step, update = self._scaler.step, self._scaler.update

        def watched_step(optimizer: torch.optim.Optimizer, *args: Any, **kwargs: Any) -> Any:
            seen = steps()
            result = step(optimizer, *args, **kwargs)
            if not self._watching:
                return result
            if optimizer is not self._optimizer:
                self._others.append(optimizer)
            elif steps() == seen:
                on_skip()
            return result

        def watched_update(*args: Any, **kwargs: Any) -> None:
            self._elsewhere |= self._watching and any(map(self._overflowed, self._others))
            self._others = []
            update(*args, **kwargs)

        for name, watched in {"step": watched_step, "update": watched_update}.items():
            self._replaced[name] = watched, vars(self._scaler).get(name)
            setattr(self._scaler, name, watched)

    def overflowed_elsewhere(self) -> bool:
        """Return whether an update since the last call counted an overflow in the gradients of another optimizer."""
        elsewhere, self._elsewhere = self._elsewhere, False
        return elsewhere

    def remove(self) -> None:
        """Give the scaler its methods back, unless another recorder has replaced these since: then they see nothing more."""
        self._watching = False
        for name, (watched, before) in self._replaced.items():
            if vars(self._scaler).get(name) is watched:
                del vars(self._scaler)[name]
                if before is not None:
                    setattr(self._scaler, name, before)

    def _overflowed(self, optimizer: torch.optim.Optimizer) -> bool:
        found = self._scaler._found_inf_per_device(optimizer)  # pyright: ignore[reportPrivateUsage]
        return any(bool(found_inf) for found_inf in found.values())
