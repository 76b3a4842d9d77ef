"""Describes an optimizer's parameters for the trace, and refuses those that no rule covers."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, get_args

import torch
from torch import Tensor

from crosscheck.errors import UnsupportedOptimizer
from crosscheck.trace.format import DType, Implementation, TensorInfo

DTYPES: Mapping[torch.dtype, DType] = {getattr(torch, name): name for name in get_args(DType)}
_FSDP_MARKS = ("_is_flat_param", "_fsdp_flattened")
_SHARDED = {"DTensor", "FlatParameter", "ShardedTensor"}


def tensors_of(optimizer: torch.optim.Optimizer, given: Mapping[Tensor, str]) -> list[tuple[Tensor, TensorInfo]]:
    """Return all parameters in the order of the groups.

    They are called by the names `given`, otherwise by the group's own, otherwise by their position.

    Raises UnsupportedOptimizer for one that no rule covers, for one that is listed twice, and for two on one memory.
    """
    found: list[tuple[Tensor, TensorInfo]] = []
    names: dict[str, int] = {}
    seen: set[int] = set()
    for number, group in enumerate(optimizer.param_groups):
        own: list[str] = group.get("param_names") or [f"group{number}.{k}" for k in range(len(group["params"]))]
        for name, parameter in zip(own, group["params"], strict=True):
            name = given.get(parameter, name)
            _check_tensor(name, parameter)
            _check_betas(name, parameter, group)
            if id(parameter) in seen:
                raise UnsupportedOptimizer(
                    f"{name} is twice in the optimizer, so each call of step() steps it twice; list every parameter once"
                )
            seen.add(id(parameter))
            names[name] = names.get(name, 0) + 1
            name = name if names[name] == 1 else f"{name} ({names[name]})"
            info = TensorInfo(
                name=name,
                shape=tuple(parameter.shape),
                dtype=DTYPES[parameter.dtype],
                device=parameter.device.type,
                group=number,
                implementation=_implementation(group, parameter),
            )
            found.append((parameter, info))
    _expect_memory_of_their_own(found)
    return found


def _expect_memory_of_their_own(found: Sequence[tuple[Tensor, TensorInfo]]) -> None:
    """Raise UnsupportedOptimizer if two parameters that are stepped share memory, such as weights tied by their `.data`.

    Those that share a larger tensor and no element of it are fine. Only of contiguous ones is it known what lies between
    their first element and their last.
    """
    memory = sorted(
        (str(parameter.device), parameter.data_ptr(), parameter.data_ptr() + parameter.nbytes, info.name)
        for parameter, info in found
        if parameter.requires_grad and parameter.numel() and parameter.is_contiguous()
    )
    for (device, _, end, name), (next_device, start, _, other) in pairwise(memory):
        if device == next_device and 0 < start < end:
            raise UnsupportedOptimizer(
                f"{name} and {other} share memory, so each call of step() steps it twice; tie them as one Parameter, "
                "listed once"
            )


def _check_tensor(name: str, parameter: Tensor) -> None:
    """Raises UnsupportedOptimizer, by name, for what no elementwise rule in a real dtype covers."""
    if type(parameter).__name__ in _SHARDED or any(getattr(parameter, mark, False) for mark in _FSDP_MARKS):
        raise UnsupportedOptimizer(
            f"{name} is a {type(parameter).__name__} (FSDP, tensor parallelism): no rank holds it whole; "
            "record a run whose parameters are not sharded"
        )
    if parameter.is_complex():
        raise UnsupportedOptimizer(f"{name} is complex ({parameter.dtype}): the rules are for real parameters")
    if parameter.dtype not in DTYPES:
        raise UnsupportedOptimizer(f"{name} is {parameter.dtype}: the rules are for {', '.join(DTYPES.values())}")


def _check_betas(name: str, parameter: Tensor, group: Mapping[str, Any]) -> None:
    """Raises UnsupportedOptimizer for what torch computes with two different betas: the one given, and that in a half."""
    betas: Any = group.get("betas", ())
    if parameter.dtype in (torch.float16, torch.bfloat16) and any(isinstance(beta, Tensor) for beta in betas):
        raise UnsupportedOptimizer(
            f"{name} is {parameter.dtype} and betas are tensors: torch rounds them to {parameter.dtype} for the state, but "
            "not for the bias corrections, and no arithmetic profile covers that; give betas as numbers"
        )


def _implementation(group: Mapping[str, Any], parameter: Tensor) -> Implementation:
    if group.get("fused"):
        return "fused"
    foreach = group.get("foreach")
    if foreach is None:  # torch's own default; a class that knows no foreach steps tensor by tensor
        foreach = "foreach" in group and parameter.device.type == "cuda" and not group.get("differentiable")
    return "foreach" if foreach else "single"
