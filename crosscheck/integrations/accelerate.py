"""Records in a loop of Hugging Face Accelerate, by one line after `accelerator.prepare`.

    recording = record(accelerator, "trace")        # and recording.close() at the end, or `with record(...):`

Steps are optimizer steps, however many backward passes each takes. The gradients are captured as the last of these left
them, before `accelerator.clip_grad_norm_`, whose bound is recorded too. Rank 0 records.
"""

from collections.abc import Callable, Iterable, Iterator
from functools import partial, wraps
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from crosscheck.errors import TraceError
from crosscheck.integrations.position import holds_trace, next_step
from crosscheck.integrations.recording import Recording, attach
from crosscheck.recorder import Recorder
from crosscheck.recorder.optimizer.wrappers import unwrap

try:
    from accelerate import Accelerator
except ImportError as error:
    raise ImportError(
        "crosscheck.integrations.accelerate needs Hugging Face Accelerate: pip install 'accelerate>=1.10'"
    ) from error


def record(
    accelerator: Accelerator,
    path: str | Path,
    *,
    optimizer: Any = None,
    scheduler: Any = None,
    model: torch.nn.Module | None = None,
    first_step: int | None = None,
    **recorder_options: Any,
) -> Recording:
    """Record the prepared optimizer from now on.

    Args:
        accelerator: The one that prepared model, optimizer and scheduler.
        path: The folder of the trace. One that holds a trace is continued: load the run's state before.
        optimizer: Which optimizer, if several were prepared.
        scheduler: Which scheduler; otherwise the one that was prepared for this optimizer.
        model: The model that names the parameters; otherwise the one that was prepared.
        first_step: The number of the coming step, where the optimizer's state does not tell it, as that of SGD.
        **recorder_options: More arguments of `Recorder`, such as `clip_norm`, `average` or `steps`.

    Raises:
        TraceError: The folder cannot be continued, or it is not clear which optimizer is meant.
        UnsupportedOptimizer: No rule covers the optimizer or its tensors.
    """
    if optimizer is None:
        optimizer = _only_optimizer(accelerator)
    inner = unwrap(optimizer)
    if scheduler is None:
        scheduler = next((s for s in getattr(accelerator, "_schedulers", ()) if _schedules(s, inner)), None)
        found = {"scheduler": scheduler}
    else:
        found, recorder_options = dict[str, Any](), recorder_options | {"scheduler": scheduler}
    if not accelerator.is_main_process:
        return Recording(None)
    if first_step is None:
        first_step = next_step(Path(path), inner)
    models = getattr(accelerator, "_models", ())
    if "named_parameters" not in recorder_options:
        found["model"] = model if model is not None else models[0] if len(models) == 1 else None
    found |= {
        "scaler": accelerator.scaler,
        "world_size": accelerator.num_processes,
        "append": holds_trace(Path(path)),
        "first_step": first_step,
    }
    recorder = attach(optimizer, path, found, recorder_options)
    recorder.loop.watch_clipping()
    if not {"scheduler", "scheduler_every"} & recorder_options.keys():
        recorder.loop.watch_scheduler()
    return Recording(recorder, watch(accelerator, recorder))


def watch(accelerator: Any, recorder: Recorder) -> Callable[[], None]:
    """Have the recorder see the gradients after each last `backward` of a step, and each clipping; returns what ends that.

    An Accelerator has no hooks, so methods of this one object are replaced until then.
    """
    present = getattr(accelerator.__dict__.get("backward"), "__self__", None)
    watched = present if isinstance(present, _Watched) else _Watched(accelerator)
    watched.recorders.append(recorder)
    return partial(watched.forget, recorder)


_UNTYPED: Any = Accelerator  # its parameters have no types


class _Watched:
    """Stands before the methods of one Accelerator, for all recorders that watch it.

    Arguments are handed on as they were given.
    """

    def __init__(self, accelerator: Any) -> None:
        self.recorders: list[Recorder] = []
        self._accelerator = accelerator
        self._backward, self._clip_norm = accelerator.backward, accelerator.clip_grad_norm_
        self._clip_value = accelerator.clip_grad_value_
        names = ("backward", "clip_grad_norm_", "clip_grad_value_")
        self._before: dict[str, Any] = {name: accelerator.__dict__.get(name) for name in names}
        accelerator.__dict__.update({name: getattr(self, name) for name in names})

    def forget(self, recorder: Recorder) -> None:
        """Let a recorder see nothing more. With the last one the methods are given back, except those that someone else has
        replaced since. A second call does nothing.
        """
        self.recorders = [other for other in self.recorders if other is not recorder]
        if self.recorders:
            return
        attributes = self._accelerator.__dict__
        for name, before in self._before.items():
            if getattr(attributes.get(name), "__self__", None) is self:
                del attributes[name]
                if before is not None:
                    attributes[name] = before

    @wraps(_UNTYPED.backward)
    def backward(self, loss: Tensor, **kwargs: Any) -> None:
        self._backward(loss, **kwargs)
        for recorder in self._at_a_step():
            recorder.after_backward()

    @wraps(_UNTYPED.clip_grad_norm_)
    def clip_grad_norm_(self, parameters: Iterable[Tensor], max_norm: float, norm_type: float = 2) -> Any:
        parameters = _readable_twice(parameters)
        norm = self._clip_norm(parameters, max_norm, norm_type=norm_type)
        # Accelerate 1.15 clips the rows of a single tensor, which have no gradients; earlier versions clip the tensor.
        described = float(norm_type) == 2 and not isinstance(parameters, Tensor)
        self._clipped(parameters, norm=float(max_norm) if described else float("nan"))
        return norm

    @wraps(_UNTYPED.clip_grad_value_)
    def clip_grad_value_(self, parameters: Iterable[Tensor], clip_value: float) -> None:
        parameters = _readable_twice(parameters)
        self._clip_value(parameters, clip_value)
        self._clipped(parameters, value=float(clip_value))

    def _at_a_step(self) -> list[Recorder]:
        """Return the recorders if the optimizer steps after this part of a batch."""
        return self.recorders if self._accelerator.sync_gradients else []

    def _clipped(self, parameters: Iterable[Tensor], **bound: float) -> None:
        """Tell each recorder of whose gradients some were clipped."""
        tensors = [parameters] if isinstance(parameters, Tensor) else list(parameters)
        for recorder in self._at_a_step():
            known = _covers(tensors, recorder.optimizer)
            if known is not None:
                recorder.loop.clipped(**{name: value * known for name, value in bound.items()})


def _readable_twice(parameters: Iterable[Tensor]) -> Iterable[Tensor]:
    """Return what was given, or a list if it was an iterator, which Accelerate could not read again."""
    return list(parameters) if isinstance(parameters, Iterator) else parameters


def _covers(parameters: list[Tensor], optimizer: torch.optim.Optimizer) -> float | None:
    """Return 1 if these are the parameters of the optimizer that have a gradient, None if none of them is, and NaN for a part
    of them or more: of those no norm is on record.
    """
    ours = {id(p) for group in optimizer.param_groups for p in group["params"] if p.grad is not None}
    theirs = {id(p) for p in parameters if (p.is_leaf or p.retains_grad) and p.grad is not None}
    if ours == theirs:
        return 1.0
    return float("nan") if ours & theirs else None


def _only_optimizer(accelerator: Any) -> Any:
    """Return the optimizer that was prepared. Raises TraceError if none or several were, or if the Accelerator does not tell."""
    try:
        optimizers: list[Any] = accelerator._optimizers
    except AttributeError:
        raise TraceError(
            "this version of Accelerate does not say where it keeps what it has prepared: give optimizer=, model= and, if there "
            "is one, scheduler="
        ) from None
    if len(optimizers) != 1:
        what = (
            "say which one with optimizer="
            if optimizers
            else "call accelerator.prepare before the recorder is attached"
        )
        raise TraceError(f"the Accelerator has prepared {len(optimizers)} optimizers: {what}")
    return optimizers[0]


def _schedules(scheduler: Any, optimizer: torch.optim.Optimizer) -> bool:
    """Return whether a prepared scheduler is one of this optimizer."""
    return any(unwrap(one) is optimizer for one in scheduler.optimizers)
