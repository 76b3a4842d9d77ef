"""A loss scaler, seen while it works: which steps it skips, and whose gradients overflowed."""

import functools
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch.amp import GradScaler

Step = Callable[..., Any]


class ScalerWatch:
    """Tells when a loss scaler skips a step without calling the optimizer, which no hook of the optimizer sees.

    `torch.amp.GradScaler` has no hooks, so `step` and `update` of this one scaler are replaced until `remove` is called.
    """

    def __init__(
        self,
        scaler: GradScaler,
        optimizer: torch.optim.Optimizer,
        steps: Callable[[], int],
        on_skip: Callable[[], None],
    ) -> None:
        """Begin. `steps` is to return how many steps were seen so far; `on_skip` is called for one that was not taken."""
        self._scaler, self._optimizer = scaler, optimizer
        self._steps, self._on_skip = steps, on_skip
        self._elsewhere, self._watching = False, True
        self._replaced: dict[str, tuple[Any, Any]] = {}  # by name: the method put there, and what was in its place
        update = scaler.update

        def watched_update(*args: Any, **kwargs: Any) -> None:
            self._elsewhere |= self._watching and self._overflows_elsewhere()
            update(*args, **kwargs)

        for name, watched in {"step": self.around(scaler.step), "update": watched_update}.items():
            self._replaced[name] = watched, vars(scaler).get(name)
            setattr(scaler, name, watched)

    def around(self, step: Step) -> Step:
        """Return a `step` of the scaler during which it is noticed whether the optimizer is called."""

        def watched_step(optimizer: torch.optim.Optimizer, *args: Any, **kwargs: Any) -> Any:
            seen = self._steps()
            result = step(optimizer, *args, **kwargs)
            if self._watching and optimizer is self._optimizer and self._steps() == seen:
                self._on_skip()
            return result

        return watched_step

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

    def _overflows_elsewhere(self) -> bool:
        """Return whether the coming update counts an overflow of another optimizer."""
        states = self._scaler._per_optimizer_states  # pyright: ignore[reportPrivateUsage]
        others = (state for optimizer, state in states.items() if optimizer != id(self._optimizer))
        return any(bool(found_inf) for state in others for found_inf in state["found_inf_per_device"].values())


class ScalerSearch:
    """Waits for a loss scaler that nobody told of: the first one that is asked to step the optimizer.

    Until it is found, `torch.amp.GradScaler.step` itself is replaced, which loops without a scaler never call.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, on_found: Callable[[GradScaler], ScalerWatch | None]) -> None:
        """Begin. `on_found` is to begin watching the scaler."""
        self.optimizer, self.on_found = optimizer, on_found
        _searches.add(self)
        if not _replacement or GradScaler.step is _replacement[0][1]:  # or somebody put that back
            _replacement[:] = [_replace_step()]

    def end(self) -> None:
        """End the search. The last one gives the class its method back, unless somebody has replaced it since."""
        _searches.discard(self)
        if not _searches and _replacement and GradScaler.step is _replacement[0][0]:
            GradScaler.step = _replacement.pop()[1]


_searches = weakref.WeakSet[ScalerSearch]()
_replacement: list[tuple[Step, Step]] = []
"""What stands in the place of the class's method, and that method; one at most."""


def _replace_step() -> tuple[Step, Step]:
    own = GradScaler.step

    @functools.wraps(own)
    def searched_step(self: GradScaler, optimizer: torch.optim.Optimizer, *args: Any, **kwargs: Any) -> Any:
        step: Step = functools.partial(own, self)
        for search in [search for search in _searches if search.optimizer is optimizer and self.is_enabled()]:
            search.end()
            watch = search.on_found(self)
            step = watch.around(step) if watch is not None else step
        return step(optimizer, *args, **kwargs)

    GradScaler.step = searched_step
    return searched_step, own
