"""Hooks before and after the steps of an optimizer, which also work for subclasses, with closures and under torch.compile."""

import weakref
from collections.abc import Callable
from inspect import currentframe
from traceback import walk_stack
from typing import Any, cast

import torch
from torch.utils.hooks import RemovableHandle

HookArguments = tuple[tuple[Any, ...], dict[str, Any]]
_OPTIMIZER_FILE = torch.optim.Optimizer.register_step_pre_hook.__code__.co_filename


def watch_steps(
    optimizer: torch.optim.Optimizer, before: Callable[[bool], None], after: Callable[[], None]
) -> tuple[RemovableHandle, RemovableHandle]:
    """Call `before(compiled)` when a step's gradients are ready, and `after()` when the step is over.

    Return the two hooks, for removal.
    """
    steps = _Steps(optimizer, before, after)
    return (
        optimizer.register_step_pre_hook(_outside_graphs(steps.begin)),
        optimizer.register_step_post_hook(_outside_graphs(steps.end)),
    )


class _Steps:
    """Tells the outermost step of an optimizer from those within it.

    torch hooks the step of each class of a hierarchy, so the step of a subclass that calls super().step() fires the hooks twice,
    and only the outer call counts. The depth is taken from the stack, so that a step which raised cannot leave it wrong.
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, before: Callable[[bool], None], after: Callable[[], None]
    ) -> None:
        self._optimizer = weakref.ref(optimizer)
        self._before, self._after = before, after
        self._depth = 0

    def begin(self, args: tuple[Any, ...], kwargs: dict[str, Any], compiled: bool) -> HookArguments | None:
        self._depth = self._steps_on_stack() if self._depth else 1  # not 0 within a step, and after one that raised
        if self._depth > 1:
            return None
        closure = args[1] if len(args) > 1 else kwargs.get("closure")
        if closure is None:
            self._before(compiled)
            return None

        def closure_then_before() -> Any:  # the gradients exist only once the closure has run
            loss = closure()
            self._before(compiled)
            return loss

        if len(args) > 1:
            return (args[0], closure_then_before, *args[2:]), kwargs
        return args, {**kwargs, "closure": closure_then_before}

    def end(self, *_: Any) -> None:
        self._depth -= 1
        if not self._depth:
            self._after()

    def _steps_on_stack(self) -> int:
        """Return how many steps of the optimizer are going on, one within the other."""
        optimizer = self._optimizer()
        hooked = (f for f, _ in walk_stack(currentframe()) if f.f_code.co_filename == _OPTIMIZER_FILE)
        # "wrapper" is what torch puts around a step; parts of a compiled one have longer names.
        steps = (f for f in hooked if f.f_code.co_name == "wrapper" and f.f_locals.get("args", (None,))[0] is optimizer)
        return max(sum(1 for _ in steps), 1)


def _outside_graphs(action: Callable[..., Any]) -> Callable[..., Any]:
    """Return a hook that runs outside of a compiled `step`, on real tensors, and is told whether the step is compiled."""
    eager = cast(Callable[..., Any], torch.compiler.disable(action))

    def hook(_: torch.optim.Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if torch.compiler.is_compiling():
            return eager(args, kwargs, True)
        return action(args, kwargs, False)  # leaving the compiler takes time even where it is not at work

    return hook
