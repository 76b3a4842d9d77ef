"""Finds the torch optimizer inside wrappers of Accelerate and DeepSpeed, and refuses optimizers that shard their state."""

from typing import Any

import torch

from crosscheck.errors import UnsupportedOptimizer

_HOOK_TABLES = ("_optimizer_step_pre_hooks", "_optimizer_step_post_hooks", "_optimizer_load_state_dict_post_hooks")
_DEEPSPEED_WRAPPERS = "deepspeed.runtime.fp16."  # FP16_Optimizer and FP16_UnfusedOptimizer, also for bfloat16


def without_accelerate(wrapped: Any, name: str) -> Any:
    """Return what is inside wrappers of Accelerate, which keep it as the attribute `name`."""
    while type(wrapped).__module__.startswith("accelerate."):
        wrapped = getattr(wrapped, name)
    return wrapped


def unwrap(optimizer: Any) -> torch.optim.Optimizer:
    """Return the torch optimizer inside wrappers that have no hooks of their own: Accelerate's, and those of DeepSpeed that
    step whole master weights.

    Raises UnsupportedOptimizer.
    """
    inner: Any = without_accelerate(optimizer, "optimizer")
    while type(inner).__module__.startswith(_DEEPSPEED_WRAPPERS):
        inner = inner.optimizer
    kind: type[object] = inner.__class__
    if any(
        base.__name__ == "ZeroRedundancyOptimizer" or base.__module__.startswith("deepspeed.runtime.")
        for base in kind.__mro__
    ):
        raise UnsupportedOptimizer(
            f"{kind.__name__} shards its state over ranks, so no rank holds a whole step; record the unsharded optimizer"
        )
    if any(base.__module__.startswith("deepspeed.") for base in kind.__mro__):
        raise UnsupportedOptimizer(
            f"{kind.__name__} steps with kernels of DeepSpeed, whose arithmetic no profile covers; record an optimizer of torch, "
            'which "torch_adam": true in the parameters of DeepSpeed\'s Adam chooses'
        )
    if not isinstance(inner, torch.optim.Optimizer):
        raise UnsupportedOptimizer(f"{kind.__name__} is not a torch.optim.Optimizer")
    if not all(hasattr(inner, table) for table in _HOOK_TABLES):
        raise UnsupportedOptimizer(_without_hooks(inner))
    return inner


def _without_hooks(optimizer: torch.optim.Optimizer) -> str:
    """Return what to record instead of an optimizer that never called torch.optim.Optimizer.__init__."""
    inside = [name for name, its in vars(optimizer).items() if isinstance(its, torch.optim.Optimizer)]
    where = f", which is its attribute {inside[0]}" if inside else ""
    return (
        f"{type(optimizer).__name__} has none of the hooks of torch.optim.Optimizer, whose __init__ it does not call; if it "
        f"wraps an optimizer, give that one{where}"
    )
