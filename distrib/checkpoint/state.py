"""Takes from a run everything that decides the next update, and nothing else, and puts it back.

Data order and augmentation are pure functions of the step, so no sampler or generator state is saved.
"""

from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from distrib.checkpoint.store import Checkpoint, Spec
from distrib.checkpoint.values import Saved
from distrib.errors import BadInput
from distrib.optim.update import Update

Tensors = dict[str, dict[str, Tensor]]
Specs = Mapping[str, Spec]

_PARTS = {"model": "the network", "ema": "the moving average", "optimizer": "the optimizer's state"}
_ADAM = ("step", "exp_avg", "exp_avg_sq", "max_exp_avg_sq")
_SLOTS: dict[str, tuple[str, ...]] = {"SGD": ("momentum_buffer",), "Adam": _ADAM, "AdamW": _ADAM}
_FORMATS = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
"""Torch's formats as safetensors names them. What is trained is float32; the buffers of a network may be any."""


def capture(update: Update) -> tuple[Tensors, dict[str, Any]]:
    """Return the tensors by part, and the values beside them."""
    tensors: Tensors = {"model": dict(update.model.state_dict()), "optimizer": _optimizer_state(update.optimizer)}
    if update.average is not None:
        tensors["ema"] = dict(update.average.state_dict())
    values = {
        "applied_updates": update.applied,
        "skipped_steps": update.skipped,
        "lr": update.lr,
        "optimizer": type(update.optimizer).__name__,
        "scaler": update.scaler.state_dict(),
    }
    return tensors, values


def restore(checkpoint: Checkpoint, saved: Saved, update: Update, *, same_optimizer: bool) -> None:
    """Put everything back, in place.

    `same_optimizer` says that the recipe's optimizer is the checkpoint's, so that no state of it may be missing.

    Raises BadInput for a checkpoint of another network or optimizer, or one that lacks a tensor or has another dtype.
    """
    model, average = dict(update.model.state_dict()), update.average
    parts: dict[str, Mapping[str, Tensor]] = {"model": model}
    if average is not None:
        parts["ema"] = dict(average.state_dict())
    for part, here in parts.items():
        _expect(checkpoint, part, {name: _spec(tensor) for name, tensor in here.items()})
    optional = not same_optimizer or saved.applied_updates == 0
    kind = type(update.optimizer).__name__
    if saved.optimizer != kind:
        raise BadInput(
            f"checkpoint {checkpoint.path} is of a run with {saved.optimizer}, and optimizer.name asks for "
            f"{kind}: take the same optimizer, or start a new run (another output.dir)"
        )
    _expect(checkpoint, "optimizer", _slots(update.optimizer), needed=() if optional else _needed(update.optimizer))
    with torch.no_grad():
        for part, here in parts.items():
            there = checkpoint.tensors(part)
            for name, tensor in here.items():
                tensor.copy_(there[name])
    _restore_optimizer(checkpoint, update.optimizer)
    update.applied, update.skipped = saved.applied_updates, saved.skipped_steps
    update.lr = saved.lr
    if update.scaler.is_enabled() and saved.scaler is not None:
        interval = update.scaler.get_growth_interval()  # the recipe's, which may have changed
        update.scaler.load_state_dict(saved.scaler.model_dump(by_alias=True) | {"growth_interval": interval})


def restore_network(checkpoint: Checkpoint, network: nn.Module) -> None:
    """Put the weights that an evaluation would take into a network: their moving average, or they themselves where there is none.

    Raises BadInput for a checkpoint of another network, or one that lacks a tensor or has another dtype.
    """
    here: Mapping[str, Tensor] = dict(network.state_dict())
    part, beside = "model", dict[str, Spec]()
    if checkpoint.specs("ema") is not None:  # torch's AveragedModel wraps the network, and counts
        part, beside = "ema", {"n_averaged": Spec("I64", ())}
        here = {f"module.{name}": tensor for name, tensor in here.items()}
    _expect(checkpoint, part, {name: _spec(tensor) for name, tensor in here.items()} | beside)
    there = checkpoint.tensors(part)
    with torch.no_grad():
        for name, tensor in here.items():
            tensor.copy_(there[name])


def _optimizer_state(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return tensors by slot/parameter name, such as exp_avg/0.weight, without slots that a parameter does not have yet."""
    return {
        f"{slot}/{name}": value
        for parameter, name in _names(optimizer).items()
        for slot, value in optimizer.state.get(parameter, {}).items()
        if value is not None
    }


def _expect(checkpoint: Checkpoint, part: str, known: Specs, *, needed: Collection[str] | None = None) -> None:
    """Raise BadInput unless the part has no other tensors than those known, each of its dtype and shape, and all that are
    `needed`.

    With None for `needed` all of them are.
    """
    what = f"checkpoint {checkpoint.path}: {_PARTS[part]}"
    there = checkpoint.specs(part)
    if there is None:
        hint = "leave out training.ema, or start a new run" if part == "ema" else "take another checkpoint"
        raise BadInput(f"{what} is missing, because {part}.safetensors is not listed in its manifest: {hint}")
    for name in sorted(known if needed is None else needed):
        if name not in there:
            raise BadInput(
                f"{what} is another one: {name} is absent in the checkpoint and {known[name].shape} in this run; start a new run"
            )
    for name, spec in sorted(there.items()):
        if name not in known or spec.shape != known[name].shape:
            here = known[name].shape if name in known else "absent"
            raise BadInput(
                f"{what} is another one: {name} is {spec.shape} in the checkpoint and {here} in this run; start a new run"
            )
        if spec.dtype != known[name].dtype:
            raise BadInput(
                f"{what} has {name} in the format {spec.dtype}, and this run needs {known[name].dtype}; take another checkpoint"
            )


def _slots(optimizer: torch.optim.Optimizer) -> dict[str, Spec]:
    """Return every tensor that the state of this kind of optimizer may hold, by slot/parameter name."""
    found: dict[str, Spec] = {}
    for parameter, name in _names(optimizer).items():
        for slot in _SLOTS[type(optimizer).__name__]:
            found[f"{slot}/{name}"] = Spec("F32", ()) if slot == "step" else _spec(parameter)
    return found


def _needed(optimizer: torch.optim.Optimizer) -> list[str]:
    """Return the slots, as slot/parameter name, that must exist once this optimizer has applied an update."""
    needed: list[str] = []
    for group in optimizer.param_groups:
        slots = [slot for slot in _SLOTS[type(optimizer).__name__] if slot != "max_exp_avg_sq" or group["amsgrad"]]
        if "momentum" in group and not group["momentum"]:
            slots = []
        needed += [f"{slot}/{name}" for slot in slots for name in group["param_names"]]
    return needed


def _spec(tensor: Tensor) -> Spec:
    return Spec(_FORMATS.get(tensor.dtype, str(tensor.dtype)), tuple(tensor.shape))


def _restore_optimizer(checkpoint: Checkpoint, optimizer: torch.optim.Optimizer) -> None:
    parameters = {name: parameter for parameter, name in _names(optimizer).items()}
    optimizer.state.clear()
    for key, saved in checkpoint.tensors("optimizer").items():
        slot, _, name = key.partition("/")
        optimizer.state[parameters[name]][slot] = _like(saved, parameters[name], slot, optimizer)
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
