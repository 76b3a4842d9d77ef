"""Watches loss scalers: which steps they skip, and what their updates count, also for other optimizers that share the scaler."""

import functools
import weakref
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch.amp import GradScaler
from torch.amp.grad_scaler import OptState

Method = Callable[..., Any]


class _Update(NamedTuple):
    """What an update of a loss scaler counts."""

    elsewhere: bool  # an overflow of another optimizer
    own: bool | None  # an overflow of the optimizer; None: what became of its last step says so


class Updates(NamedTuple):
    """What the updates of a loss scaler between two steps of the optimizer counted."""

    overflow_elsewhere: bool = False
    """Whether one of them counted an overflow of another optimizer."""
    overflows: tuple[bool, ...] | None = None
    """Of each one in its order, whether it counted an overflow. None: there was the usual one for the step before."""


class ScalerWatch:
    """Tells when a loss scaler skips a step without calling the optimizer, which no hook of the optimizer sees.

    `torch.amp.GradScaler` has no hooks, so `step` and `update` of the class are replaced as long as there is a watch. Nothing is
    put into a scaler itself, which can be copied and pickled as ever.
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
        self._began = self._updated_after = steps()
        self._updates: list[_Update] = []  # those after the step `_updated_after`
        _watches.add(self)
        _replace_methods(GradScaler if scaler is None else type(scaler))
        weakref.finalize(self, _restore_methods).atexit = False

    def updates(self, *, skipped: bool) -> Updates:
        """Return what the scaler's updates since the last step counted. `skipped`: whether the last step was."""
        # Only methods of the class are watched, so nothing is known of the updates of a scaler that has one of its own.
        if self.scaler is None or "update" in vars(self.scaler):
            return Updates()
        seen = self._steps()
        updates = self._updates if self._updated_after == seen else []
        elsewhere = any(update.elsewhere for update in updates)
        overflows = [update.elsewhere or (skipped if update.own is None else update.own) for update in updates]
        usual = [skipped or elsewhere] if seen > self._began else []
        return Updates(elsewhere, None if overflows == usual else tuple(overflows))

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
        """Note what the coming update of a scaler counts."""
        if scaler is not self.scaler:
            return
        if self._updated_after != self._steps():
            self._updated_after, self._updates = self._steps(), []
        states = dict(scaler._per_optimizer_states)  # pyright: ignore[reportPrivateUsage]
        own = states.pop(id(self._optimizer), None)
        # What was found of a step that was taken or skipped is known by now. To read it from a GPU again would wait.
        stepped = own is not None and own["stage"] is OptState.STEPPED
        found = None if stepped else own is not None and _overflowed(own)
        self._updates.append(_Update(any(map(_overflowed, states.values())), found))


def _overflowed(state: dict[str, Any]) -> bool:
    """Return whether a scaler found that gradients of an optimizer were not finite."""
    return any(bool(inf) for inf in state["found_inf_per_device"].values())


_watches = weakref.WeakSet[ScalerWatch]()
_updating = set[int]()
"""The ids of the scalers that are in an update right now."""
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
        if id(self) in _updating:  # a subclass's method, which is watched as well, calls that of its base class
            return own(self, *args, **kwargs)
        for watch in list(_watches):
            watch.before_update(self)
        _updating.add(id(self))
        try:
            return own(self, *args, **kwargs)
        finally:
            _updating.discard(id(self))

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
    # To iterate over a WeakSet leaves out members that are gone; its length may still count them.
    if any(True for _ in _watches):
        return
    for (owner, name), (method, own) in list(_replaced.items()):
        if vars(owner).get(name) is method:
            setattr(owner, name, own)
            del _replaced[owner, name]
