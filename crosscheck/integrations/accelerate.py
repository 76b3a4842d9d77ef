"""Records in a loop of Hugging Face Accelerate, by one line after `accelerator.prepare`.

    recording = record(accelerator, "trace")        # and recording.close() at the end, or `with record(...):`

Steps are optimizer steps, however many backward passes each takes. The gradients are captured as the last of these left
them, before `accelerator.clip_grad_norm_`, whose bound is recorded too. Rank 0 records.
"""

from collections.abc import Callable, Iterable
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
    **recording: Any,
) -> Recording:
    """Record the prepared optimizer from now on.

    Args:
        accelerator: The one that prepared model, optimizer and scheduler.
        path: The folder of the trace. One that holds a trace is continued: load the run's state before.
        optimizer: Which optimizer, if several were prepared.
        scheduler: Which scheduler; otherwise the one that was prepared for this optimizer.
        model: The model that names the parameters; otherwise the one that was prepared.
        first_step: The number of the coming step, where the optimizer's state does not tell it, as that of SGD.
        **recording: More arguments of `Recorder`, such as `clip_norm`, `average` or `steps`.

    Raises:
        TraceError: The folder cannot be continued, or it is not clear which optimizer is meant.
        UnsupportedOptimizer: No rule covers the optimizer or its tensors.
    """
    if optimizer is None:
        optimizer = _only(_prepared(accelerator, "_optimizers"), "optimizer")
    inner = unwrap(optimizer)
    if scheduler is None:
        scheduler = next((s for s in _prepared(accelerator, "_schedulers") if _schedules(s, inner)), None)
        found = {"scheduler": scheduler}
    else:
        found, recording = dict[str, Any](), recording | {"scheduler": scheduler}
    if not accelerator.is_main_process:
        return Recording(None)
    if first_step is None:
        first_step = next_step(Path(path), inner)
    models = _prepared(accelerator, "_models")
    if "named_parameters" not in recording:
        found["model"] = model if model is not None else models[0] if len(models) == 1 else None
    found |= {
        "scaler": accelerator.scaler,
        "world_size": accelerator.num_processes,
        "append": holds_trace(Path(path)),
        "first_step": first_step,
    }
    recorder = attach(optimizer, path, found, recording)
    recorder.loop.watch_clipping()
    return Recording(recorder, watch(accelerator, recorder))


def watch(accelerator: Any, recorder: Recorder) -> Callable[[], None]:
    """Have the recorder see the gradients after each last `backward` of a step, and each clipping; returns what ends that.

    An Accelerator has no hooks, so methods of this one object are replaced until then.
    """
    watched = _Watched(accelerator)
    backward, clip_norm, clip_value = accelerator.backward, accelerator.clip_grad_norm_, accelerator.clip_grad_value_

    def watched_backward(loss: Tensor, **more: Any) -> None:
        backward(loss, **more)
        if watched.active and accelerator.sync_gradients:
            recorder.after_backward()

    def watched_clip_norm(parameters: Iterable[Tensor], max_norm: float, norm_type: float = 2) -> Any:
        parameters = [parameters] if isinstance(parameters, Tensor) else list(parameters)
        if watched.active and accelerator.sync_gradients:
            known = _covers(parameters, recorder.optimizer) if float(norm_type) == 2 else float("nan")
            if known is not None:
                recorder.loop.clipped(norm=float(max_norm) * known)
        return clip_norm(parameters, max_norm, norm_type=norm_type)

    def watched_clip_value(parameters: Iterable[Tensor], clip_value_: float) -> Any:
        parameters = [parameters] if isinstance(parameters, Tensor) else list(parameters)
        if watched.active and accelerator.sync_gradients:
            known = _covers(parameters, recorder.optimizer)
            if known is not None:
                recorder.loop.clipped(value=float(clip_value_) * known)
        return clip_value(parameters, clip_value_)

    watched.replace("backward", watched_backward)
    watched.replace("clip_grad_norm_", watched_clip_norm)
    watched.replace("clip_grad_value_", watched_clip_value)
    return watched.restore


class _Watched:
    """Methods of one object that were replaced."""

    def __init__(self, target: Any) -> None:
        self.active = True
        self._target = target
        self._replaced: dict[str, tuple[Any, Any]] = {}  # by name: the method put there, and what was in its place

    def replace(self, name: str, method: Any) -> None:
        self._replaced[name] = method, vars(self._target).get(name)
        setattr(self._target, name, method)

    def restore(self) -> None:
        """Give the methods back, unless another recording has replaced these since: then they see nothing more."""
        self.active = False
        for name, (method, before) in self._replaced.items():
            if vars(self._target).get(name) is method:
                delattr(self._target, name)
                if before is not None:
                    setattr(self._target, name, before)


def _covers(parameters: list[Tensor], optimizer: torch.optim.Optimizer) -> float | None:
    """Return 1 if these are the parameters of the optimizer that have a gradient, None if none of them is, and NaN for a part
    of them or more: of those no norm is on record.
    """
    ours = {id(p) for group in optimizer.param_groups for p in group["params"] if p.grad is not None}
    theirs = {id(parameter) for parameter in parameters if parameter.grad is not None}
    if ours == theirs:
        return 1.0
    return float("nan") if ours & theirs else None


def _prepared(accelerator: Any, what: str) -> list[Any]:
    return list(getattr(accelerator, what, ()))


def _only(optimizers: list[Any], what: str) -> Any:
    if len(optimizers) != 1:
        raise TraceError(
            f"the Accelerator has prepared {len(optimizers)} optimizers: "
            + (
                f"say which one with {what}="
                if optimizers
                else "call accelerator.prepare before the recorder is attached"
            )
        )
    return optimizers[0]


def _schedules(scheduler: Any, optimizer: torch.optim.Optimizer) -> bool:
    """Return whether a prepared scheduler is one of this optimizer."""
    return any(unwrap(one) is optimizer for one in scheduler.optimizers)
