"""What is being recorded: the torch optimizer behind the wrappers, its rule, its tensors."""

import platform
import re
from collections.abc import Mapping
from typing import Any, cast, get_args

import numpy as np
import safetensors
import torch
from torch import Tensor

from crosscheck.errors import UnsupportedOptimizer
from crosscheck.trace.format import ROUNDOFF_OF, DType, Implementation, Option, Scaler, TensorInfo

CLASSES = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
"""The formulas that can be claimed, and whose they are."""

DTYPES: Mapping[torch.dtype, DType] = {getattr(torch, name): name for name in get_args(DType)}
_FSDP_MARKS = ("_is_flat_param", "_fsdp_flattened")
_DEEPSPEED_WRAPPERS = "deepspeed.runtime.fp16."  # FP16_Optimizer and FP16_UnfusedOptimizer, also for bfloat16
_SHARDED = {"DTensor", "FlatParameter", "ShardedTensor", "ZeroRedundancyOptimizer"}


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
    if any(base.__name__ in _SHARDED or base.__module__.startswith("deepspeed.runtime.") for base in kind.__mro__):
        raise UnsupportedOptimizer(
            f"{kind.__name__} shards its state over ranks, so no rank holds a whole step; record the unsharded optimizer"
        )
    if any(base.__module__.startswith("deepspeed.") for base in kind.__mro__):
        raise UnsupportedOptimizer(
            f"{kind.__name__} steps with kernels of DeepSpeed, whose arithmetic no profile covers; record an optimizer of torch, which "
            '"torch_adam": true in the parameters of DeepSpeed\'s Adam chooses'
        )
    if not isinstance(inner, torch.optim.Optimizer):
        raise UnsupportedOptimizer(f"{kind.__name__} is not a torch.optim.Optimizer")
    return inner


def choose_rule(optimizer: torch.optim.Optimizer, rule: str) -> str:
    """Return the name of the claimed formula; `auto` goes by the class. Raises UnsupportedOptimizer."""
    kinds = [base.__name__ for base in type(optimizer).__mro__]
    if any(re.search(r"(4bit|8bit|Fp8)$", kind, re.IGNORECASE) for kind in kinds):
        raise UnsupportedOptimizer(
            f"{kinds[0]} keeps its state in fewer bits than any format that the rules know; record the same optimizer with its "
            f"state in {', '.join(DTYPES.values())}"
        )
    if rule in CLASSES:
        return rule
    accepted = ", ".join(CLASSES)
    if rule != "auto":
        raise UnsupportedOptimizer(f"rule={rule!r}: there is no such rule; there are {accepted}")
    for name in ("adamw", "adam", "sgd"):  # AdamW is a subclass of Adam
        if isinstance(optimizer, CLASSES[name]):
            return name
    raise UnsupportedOptimizer(
        f"there is no rule for {type(optimizer).__name__}; there are {accepted}. If it claims one of these formulas, "
        "say which with rule="
    )


def check_tensor(name: str, parameter: Tensor) -> None:
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


def tensors_of(optimizer: torch.optim.Optimizer, given: Mapping[Tensor, str]) -> list[tuple[Tensor, TensorInfo]]:
    """Return all parameters in the order of the groups.

    They are called by the names `given`, otherwise by the group's own, otherwise by their position.

    Raises UnsupportedOptimizer for one that no rule covers, and for one that is listed twice.
    """
    found: list[tuple[Tensor, TensorInfo]] = []
    names: dict[str, int] = {}
    seen: set[int] = set()
    for number, group in enumerate(optimizer.param_groups):
        own: list[str] = group.get("param_names") or [f"group{number}.{k}" for k in range(len(group["params"]))]
        for name, parameter in zip(own, group["params"], strict=True):
            name = given.get(parameter, name)
            check_tensor(name, parameter)
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
    return found


def _implementation(group: Mapping[str, Any], parameter: Tensor) -> Implementation:
    if group.get("fused"):
        return "fused"
    foreach = group.get("foreach")
    if foreach is None:  # torch's own default; a class that knows no foreach steps tensor by tensor
        foreach = "foreach" in group and parameter.device.type == "cuda" and not group.get("differentiable")
    return "foreach" if foreach else "single"


def options_of(group: Mapping[str, Any]) -> dict[str, Option]:
    """Return every option of a parameter group that is a number, a flag or a few numbers; reading a CUDA tensor waits."""
    found: dict[str, Option] = {}
    for name, value in group.items():
        if name in ("params", "param_names"):
            continue
        roundoffs = [_roundoff(member) for member in (value if isinstance(value, list | tuple) else [value])]  # pyright: ignore[reportUnknownVariableType]
        if any(roundoffs):
            found[name + ROUNDOFF_OF] = max(roundoffs)
        if isinstance(value, list | tuple):
            members = [_number(member) for member in value]  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
            if all(isinstance(member, int | float) for member in members):
                found[name] = tuple(float(member) for member in members if member is not None)
        elif value is None or isinstance(_number(value), bool | int | float):
            found[name] = _number(value)
    return found


def _roundoff(value: Any) -> float:
    """Return the unit roundoff of the format of a tensor, or of a number of NumPy's that is narrower than Python's; 0 for a
    plain number, which is computed with in float64.
    """
    if isinstance(value, np.generic):
        dtype = cast(Any, value).dtype
        return float(np.finfo(dtype).eps) / 2 if dtype.kind == "f" and dtype.itemsize < 8 else 0.0
    return torch.finfo(value.dtype).eps / 2 if isinstance(value, Tensor) and value.is_floating_point() else 0.0


def state_of(
    optimizer: torch.optim.Optimizer, parameter: Tensor, group: int, names: Mapping[str, str]
) -> Mapping[str, Any]:
    """Return the state of a parameter.

    Some optimizers, such as apex's FusedAdam, count the steps in the parameter group: that count stands for one of the
    tensor's own. `names`: the rule's name of each key, where they differ.
    """
    state: Mapping[str, Any] = optimizer.state.get(parameter, {})
    if not state or "step" in (names.get(key, key) for key in state):
        return state
    counts = {key: n for key, n in optimizer.param_groups[group].items() if names.get(key, key) == "step"}
    return {**counts, **state}


def _number(value: Any) -> bool | int | float | None:
    if isinstance(value, Tensor):
        return float(value.detach()) if value.numel() == 1 else None
    plain = cast(Any, value).item() if isinstance(value, np.generic) else value
    return plain if isinstance(plain, bool | int | float) else None


def scaler_of(scaler: torch.amp.GradScaler | None) -> Scaler | None:
    """Return a loss scaler's settings and where it stands; None if there is none or it is switched off."""
    if scaler is None or not scaler.is_enabled():
        return None
    state = scaler.state_dict()
    return Scaler(
        scale=state["scale"],
        growth_factor=state["growth_factor"],
        backoff_factor=state["backoff_factor"],
        growth_interval=state["growth_interval"],
        growth_tracker=state["_growth_tracker"],
    )


def place_of(rank: int | None, world_size: int | None) -> tuple[int, int]:
    """Return the rank of this process and the number of ranks; what is not given is asked of torch.distributed.

    Raises ValueError for a rank that a world of this size does not have.
    """
    here, size = 0, 1
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        here, size = torch.distributed.get_rank(), torch.distributed.get_world_size()
    here, size = here if rank is None else rank, size if world_size is None else world_size
    if not 0 <= here < size:
        raise ValueError(f"rank={here}, world_size={size}: accepted are ranks from 0 to world_size - 1")
    return here, size


def versions() -> dict[str, str]:
    return {
        "torch": torch.__version__,
        "numpy": np.__version__,
        "safetensors": safetensors.__version__,
        "python": platform.python_version(),
    }
