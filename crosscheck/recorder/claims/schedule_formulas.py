"""Reads from torch's schedulers the formula that their rates follow. Some classes have none."""

from collections.abc import Sequence
from typing import Any

import torch
from torch.optim import Optimizer
from torch.optim import lr_scheduler as schedulers
from torch.optim.lr_scheduler import LRScheduler

from crosscheck.errors import TraceError
from crosscheck.trace.schedule_claims import BY_GROUP, read_schedule

Formula = dict[str, Any]


def formula_of(scheduler: LRScheduler, optimizer: Optimizer, every: int) -> Formula | None:
    """Return the scheduler's factor of each group's initial rate as a claim, or None if it is no formula that a claim can hold.

    `every`: after how many updates the loop steps it.
    """
    number = len(optimizer.param_groups)
    each = [_of_group(scheduler, optimizer, group) for group in range(number)]
    known = [formula for formula in each if formula is not None]
    if len(known) < number or not known:
        return None
    if every > 1:
        known = [{"name": "every", "updates": every, "schedule": formula} for formula in known]
    claim = known[0] if all(formula == known[0] for formula in known) else {"name": BY_GROUP, "schedules": known}
    try:
        read_schedule(claim)
    except TraceError:  # with unusual numbers, such as a rate that begins at zero
        return None
    return claim


def _of_group(scheduler: LRScheduler, optimizer: Optimizer, group: int) -> Formula | None:
    """Return the formula of one group; None for a class that has none, or for one of the user's own.

    None as well for a group that the scheduler was not made with.
    """
    s: Any = scheduler
    if type(s) is schedulers.SequentialLR:
        return _sequential(s, optimizer, group)
    if type(s) is schedulers.ChainedScheduler:
        return _chained(s, optimizer, group)
    if type(s) not in _FORMULAS:
        return None
    options = optimizer.param_groups[group]
    if group >= len(s.base_lrs) or (type(s) in _RECURSIVE and _is_rounded(options["lr"])):
        return None
    base = float(s.base_lrs[group])
    if base <= 0 or float(options.get("initial_lr", base)) != base:
        return None
    return _FORMULAS[type(s)](s, base, group, options)


def _is_rounded(lr: Any) -> bool:
    """Return whether a rate is a tensor in a format in which it drifts from the formula, by a roundoff in every step."""
    return isinstance(lr, torch.Tensor) and lr.dtype != torch.float64


def _sequential(s: Any, optimizer: Optimizer, group: int) -> Formula | None:
    each = [_of_group(one, optimizer, group) for one in s._schedulers]
    if None in each or any(type(one) not in _FORMULAS for one in s._schedulers):
        return None
    return {"name": "sequential", "milestones": [*s._milestones], "schedules": each} if len(each) > 1 else each[0]


def _chained(s: Any, optimizer: Optimizer, group: int) -> Formula | None:
    """Return the product, if each scheduler multiplies the rate that it finds instead of setting it."""
    if any(type(one) not in _MULTIPLYING for one in s._schedulers):
        return None
    each = [_of_group(one, optimizer, group) for one in s._schedulers]
    return None if None in each else {"name": "product", "schedules": each}


def _step(s: Any, *_: Any) -> Formula:
    return {"name": "step", "size": s.step_size, "gamma": s.gamma}


def _multistep(s: Any, *_: Any) -> Formula:
    return {"name": "multistep", "milestones": sorted(s.milestones.elements()), "gamma": s.gamma}


def _exponential(s: Any, *_: Any) -> Formula:
    return {"name": "exponential", "size": 1, "gamma": s.gamma}


def _constant(s: Any, *_: Any) -> Formula | None:
    if s.factor == 1:
        return {"name": "constant"}
    return _piecewise([(0, s.factor), (s.total_iters, 1.0)], "none") if s.total_iters > 0 else None


def _linear(s: Any, *_: Any) -> Formula | None:
    return _piecewise([(0, s.start_factor), (s.total_iters, s.end_factor)], "linear") if s.total_iters > 0 else None


def _polynomial(s: Any, *_: Any) -> Formula:
    return {"name": "polynomial", "total": s.total_iters, "power": s.power}


def _cosine_annealing(s: Any, base: float, *_: Any) -> Formula:
    return {"name": "cosine annealing", "half_period": s.T_max, "end_factor": s.eta_min / base}


def _warm_restarts(s: Any, base: float, *_: Any) -> Formula:
    return {"name": "warm restarts", "period": s.T_0, "multiplier": s.T_mult, "end_factor": s.eta_min / base}


def _onecycle(s: Any, base: float, _: int, options: dict[str, Any]) -> Formula:
    """Return the phases of OneCycleLR, which keeps the rates between which it goes in the group."""
    ends = [(phase["end_step"], float(options[phase["end_lr"]]) / base) for phase in s._schedule_phases]
    return _piecewise([(0, 1.0), *ends], "cosine" if s._anneal_func_type == "cos" else "linear")


def _cyclic(s: Any, base: float, group: int, _: dict[str, Any]) -> Formula | None:
    if s._scale_fn_custom is not None:
        return None
    up, peak = s.total_size * s.step_ratio, float(s.max_lrs[group]) / base
    down, gamma = s.total_size - up, s.gamma if s.mode == "exp_range" else 1.0
    return {"name": "cyclic", "up": up, "down": down, "peak_factor": peak, "mode": s.mode, "gamma": gamma}


def _piecewise(points: Sequence[tuple[float, float]], between: str) -> Formula:
    (_, start), *others = points
    boundaries, factors = [float(at) for at, _ in others], [float(factor) for _, factor in others]
    return {
        "name": "piecewise",
        "start": float(start),
        "boundaries": boundaries,
        "factors": factors,
        "between": between,
    }


_FORMULAS: dict[type, Any] = {
    schedulers.StepLR: _step,
    schedulers.MultiStepLR: _multistep,
    schedulers.ExponentialLR: _exponential,
    schedulers.ConstantLR: _constant,
    schedulers.LinearLR: _linear,
    schedulers.PolynomialLR: _polynomial,
    schedulers.CosineAnnealingLR: _cosine_annealing,
    schedulers.CosineAnnealingWarmRestarts: _warm_restarts,
    schedulers.OneCycleLR: _onecycle,
    schedulers.CyclicLR: _cyclic,
}
"""From the scheduler, its base rate, the number of the group and the group's options to the formula."""

_MULTIPLYING = (
    schedulers.StepLR,
    schedulers.MultiStepLR,
    schedulers.ExponentialLR,
    schedulers.ConstantLR,
    schedulers.LinearLR,
    schedulers.PolynomialLR,
)
_RECURSIVE = (*_MULTIPLYING, schedulers.CosineAnnealingLR)
"""Those that compute each rate from the one before."""
