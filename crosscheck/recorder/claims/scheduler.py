"""Finds torch's scheduler inside Accelerate's wrapper, and refuses schedulers that no claim can be read from."""

from collections.abc import Sequence
from typing import Any

from torch.optim import Optimizer
from torch.optim import lr_scheduler as schedulers
from torch.optim.lr_scheduler import LRScheduler

from crosscheck.errors import TraceError
from crosscheck.recorder.optimizer.wrappers import without_accelerate


def unwrap_scheduler(scheduler: Any, optimizer: Optimizer) -> LRScheduler:
    """Return torch's scheduler inside Accelerate's wrapper.

    Raises TraceError for what is no function of the step, is no scheduler of torch, or schedules another optimizer, and for one
    that stands between two steps.
    """
    inner = without_accelerate(scheduler, "scheduler")
    for one in _all_of(inner):
        kind = type(one).__name__
        if isinstance(one, schedulers.ReduceLROnPlateau):
            raise TraceError(
                f"scheduler: {kind} is not a function of the step, it follows a measured number, so no replay can say what the "
                "rate should be; leave scheduler= out: the optimizer is checked with the rates that were used"
            )
        if not isinstance(one, LRScheduler):
            raise TraceError(
                f"scheduler: {kind} is not a torch.optim.lr_scheduler.LRScheduler; claim what it does, such as "
                "claims=Claims(schedule={'name': 'constant'}), or leave scheduler= out"
            )
    if not float(getattr(inner, "T_cur", 0)).is_integer():
        raise TraceError(
            f"scheduler: this {type(inner).__name__} was stepped to a fraction of an epoch, as by step(epoch + i / iters), which "
            "no count of updates gives; leave scheduler= out, or give it a period in updates and call step()"
        )
    scheduled: Any = without_accelerate(inner.optimizer, "optimizer")
    if scheduled is not optimizer:
        raise TraceError(
            f"scheduler: this {type(inner).__name__} steps another optimizer ({type(scheduled).__name__}) than the recorded "
            f"one ({type(optimizer).__name__}); give the scheduler of the recorded optimizer"
        )
    return inner


def times_stepped(scheduler: LRScheduler) -> int:
    """Return how many times the scheduler was stepped since it was made."""
    if isinstance(scheduler, schedulers.ChainedScheduler):
        return times_stepped(scheduler._schedulers[0])  # pyright: ignore[reportPrivateUsage]
    return scheduler.last_epoch


def _all_of(scheduler: Any) -> list[Any]:
    """Return the scheduler and all those that it is made of."""
    inner: Sequence[Any] = getattr(scheduler, "_schedulers", ())
    return [scheduler, *(one for each in inner for one in _all_of(each))]
