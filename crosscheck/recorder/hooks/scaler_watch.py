"""Watches loss scalers: which steps they skip, and whether gradients of another optimizer overflowed."""

import functools
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch.amp import GradScaler

Method = Callable[..., Any]


class ScalerWatch:
    """Tells when a loss scaler skips a step without calling the optimizer, which no hook of the optimizer sees.

    `torch.amp.GradScaler` has no hooks, so `step` and `update` of the class are replaced as long as there is a watch. Nothing is put
    into a scaler itself, which can be copied and pickled as ever.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        scaler: GradScaler | None,
        steps: Callable[[], int],
        on_skip: Callable[[], None],
    ) -> None:
        """Begin. `steps` is to return how many steps were seen so far; `on_skip` is called for one that was not taken.

        Without a scaler it is the first one to step the optimizer that is watched.
        """
        self.scaler = scaler
        """The scaler, once it is known."""
        self._optimizer, self._steps, self._on_skip = optimizer, steps, on_skip
        self._elsewhere = False
        _watches.add(self)
        _replace_methods(GradScaler if scaler is None else type(scaler))
        weakref.finalize(self, _restore_methods).atexit = False

    def overflowed_elsewhere(self) -> bool:
        """Return whether an update since the last call counted an overflow in the gradients of another optimizer."""
        elsewhere, self._elsewhere = self._elsewhere, False
        return elsewhere

    def end(self) -> None:
        """See nothing more. With the last watch the class gets its methods back."""
        _watches.discard(self)
        _restore_methods()

    def is_about(self, scaler: GradScaler, optimizer: torch.optim.Optimizer) -> bool:
        """Return whether the step that a scaler is asked for is one to watch."""
        if optimizer is not self._optimizer:
            return False
        if self.scaler is None and scaler.is_enabled():
            self.scaler = scaler
            _replace_methods(type(scaler))
        return scaler is self.scaler

    def around_step(self) -> Callable[[], None]:
        """Return what is to be called when a step is over, to notice whether it was taken."""
        seen = self._steps()

        def step_is_over() -> None:
            if self in _watches and self._steps() == seen:
                self._on_skip()

        return step_is_over

    def before_update(self, scaler: GradScaler) -> None:
        """See whether the coming update of a scaler counts an overflow of another optimizer."""
        if scaler is self.scaler:
            states = scaler._per_optimizer_states  # pyright: ignore[reportPrivateUsage]
            others = (state for optimizer, state in states.items() if optimizer != id(self._optimizer))
            self._elsewhere |= any(bool(inf) for state in others for inf in state["found_inf_per_device"].values())


_watches = weakref.WeakSet[ScalerWatch]()
_replaced: dict[tuple[type[GradScaler], str], tuple[Method, Method]] = {}
"""By class and name: what stands in the place of a method, and that method."""


def _watched_step(own: Method) -> Method:
    @functools.wraps(own)
    def step(self: GradScaler, optimizer: torch.optim.Optimizer, *args: Any, **kwargs: Any) -> Any:
        over = [watch.around_step() for watch in list(_watches) if watch.is_about(self, optimizer)]
        result = own(self, optimizer, *args, **kwargs)
        for step_is_over in over:
            step_is_over()
        return result

    return step


def _watched_update(own: Method) -> Method:
    @functools.wraps(own)
    def update(self: GradScaler, *args: Any, **kwargs: Any) -> Any:
        for watch in list(_watches):
            watch.before_update(self)
        return own(self, *args, **kwargs)

    return update


_WATCHED = {"step": _watched_step, "update": _watched_update}


def _replace_methods(kind: type[GradScaler]) -> None:
    """Replace the methods of a class of scalers where they are defined, unless that is done."""
    for name, watched in _WATCHED.items():
        owner = next(base for base in kind.__mro__ if name in vars(base))
        now = vars(owner)[name]
        # Not replaced, or somebody put back what was there before.
        if now is _replaced.get((owner, name), (None, now))[1]:
            method = watched(now)
            _replaced[owner, name] = method, now
            setattr(owner, name, method)


def _restore_methods() -> None:
    """Give the classes their methods back if nobody watches any more, except where somebody else has replaced them since."""
    if any(True for _ in _watches):
        return
    for (owner, name), (method, own) in list(_replaced.items()):
        if vars(owner).get(name) is method:
            setattr(owner, name, own)
            del _replaced[owner, name]
