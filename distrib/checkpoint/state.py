"""What a checkpoint holds: everything that decides the next update, and nothing else.

Data order and augmentation are pure functions of the step, so no sampler or generator state is saved.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from distrib.checkpoint.store import Checkpoint
from distrib.errors import BadInput
from distrib.optim.update import Update

Tensors = dict[str, dict[str, Tensor]]


def capture(update: Update) -> tuple[Tensors, dict[str, Any]]:
    """Return the tensors by part, and the values beside them."""
    tensors: Tensors = {"model": dict(update.model.state_dict()), "optimizer": _optimizer_state(update.optimizer)}
    if update.average is not None:
        tensors["ema"] = dict(update.average.state_dict())
    values = {
        "applied_updates": update.applied,
        "skipped_steps": update.skipped,
        "optimizer": type(update.optimizer).__name__,
        "scaler": update.scaler.state_dict(),
    }
    return tensors, values


def restore(checkpoint: Checkpoint, update: Update) -> None:
    """Put everything back, in place. Raises BadInput for a checkpoint of another network or optimizer."""
    _copy_into(update.model.state_dict(), checkpoint.tensors("model"), f"checkpoint {checkpoint.path}: the network")
    if update.average is not None:
        saved = checkpoint.tensors("ema")
        if not saved:
            raise BadInput(
                f"checkpoint {checkpoint.path} has no moving average: leave out training.ema, or start a new run"
            )
        _copy_into(update.average.state_dict(), saved, f"checkpoint {checkpoint.path}: the moving average")
    _restore_optimizer(checkpoint, update.optimizer)
    update.applied = int(checkpoint.values["applied_updates"])
    update.skipped = int(checkpoint.values["skipped_steps"])
    if update.scaler.is_enabled() and checkpoint.values["scaler"]:
        interval = update.scaler.get_growth_interval()  # the recipe's, which may have changed
        update.scaler.load_state_dict({**checkpoint.values["scaler"], "growth_interval": interval})


def _optimizer_state(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return tensors by slot/parameter name, such as exp_avg/0.weight, without slots that a parameter does not have yet."""
    return {
        f"{slot}/{name}": value
        for parameter, name in _names(optimizer).items()
        for slot, value in optimizer.state.get(parameter, {}).items()
        if value is not None
    }


def _restore_optimizer(checkpoint: Checkpoint, optimizer: torch.optim.Optimizer) -> None:
    kind = type(optimizer).__name__
    if checkpoint.values["optimizer"] != kind:
        raise BadInput(
            f"checkpoint {checkpoint.path} is of a run with {checkpoint.values['optimizer']}, and optimizer.name asks for "
            f"{kind}: take the same optimizer, or start a new run (another output.dir)"
        )
    parameters = {name: parameter for parameter, name in _names(optimizer).items()}
    optimizer.state.clear()
    for key, saved in checkpoint.tensors("optimizer").items():
        slot, _, name = key.partition("/")
        parameter = parameters.get(name)
        if parameter is None or (slot != "step" and saved.shape != parameter.shape):
            raise BadInput(f"checkpoint {checkpoint.path}: {key} does not belong to this network; start a new run")
        optimizer.state[parameter][slot] = _like(saved, parameter, slot, optimizer)
    for group in optimizer.param_groups:
        states = [optimizer.state[p] for p in group["params"] if p in optimizer.state]
        if group.get("amsgrad") and any("max_exp_avg_sq" not in slots for slots in states):
            raise BadInput(
                f"checkpoint {checkpoint.path} was written without amsgrad, and the running maximum cannot be made up: "
                "set optimizer.amsgrad = false, or start a new run (another output.dir)"
            )


def _like(saved: Tensor, parameter: Tensor, slot: str, optimizer: torch.optim.Optimizer) -> Tensor:
    """Return a copy in the parameter's memory order (fused kernels read both flat), on the right device.

    It is always a copy, because safetensors may hand out unaligned memory.
    """
    if slot == "step":
        group = optimizer.param_groups[0]
        on_device = group.get("capturable") or group.get("fused")
        return saved.clone().to(parameter.device if on_device else "cpu")
    return torch.empty_like(parameter, dtype=saved.dtype, requires_grad=False).copy_(saved)


def _names(optimizer: torch.optim.Optimizer) -> dict[Tensor, str]:
    return {
        parameter: name
        for group in optimizer.param_groups
        for parameter, name in zip(group["params"], group["param_names"], strict=True)
    }


def _copy_into(target: Mapping[str, Tensor], saved: Mapping[str, Tensor], what: str) -> None:
    for name in sorted(set(target) | set(saved)):
        here = tuple(target[name].shape) if name in target else "absent"
        there = tuple(saved[name].shape) if name in saved else "absent"
        if here != there:
            raise BadInput(
                f"{what} is another one: {name} is {there} in the checkpoint and {here} in this run; start a new run"
            )
    with torch.no_grad():
        for name, tensor in target.items():
            tensor.copy_(saved[name])
