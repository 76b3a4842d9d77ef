"""Which schedules of the learning rate can be claimed, and with which numbers. Imports neither JAX nor torch.

A claim is a JSON object: a `name`, and numbers that count applied updates. Some are made of other claims. It is read
here both where it is made, in the trainer's process, and where it is replayed.
"""

import reprlib
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Annotated, Any, Literal, cast

from pydantic import ConfigDict, Field, FiniteFloat, TypeAdapter, ValidationError

from crosscheck.errors import TraceError

Claim = Mapping[str, Any]

_MOST = 1e300  # the reciprocal of a larger number is subnormal, and XLA takes it for zero

# What the values of a claim may be, as a type and in words.
_Count = Annotated[int, Field(ge=1, lt=2**63), "a whole number from 1 to 2^63 - 1"]
_Milestones = Annotated[
    Sequence[_Count], Field(min_length=1), "a list of whole numbers from 1 to 2^63 - 1, at least one"
]
_Warmup = Annotated[int, Field(ge=0, lt=2**63), "a whole number from 0 to 2^63 - 1"]
_Gamma = Annotated[FiniteFloat, Field(gt=0), "a finite number above 0"]
_Fraction = Annotated[int | float, Field(ge=0, le=1), "a number from 0 to 1"]
_Divisor = Annotated[float, Field(ge=1, le=_MOST), f"a number from 1 to {_MOST:g}"]
_Factor = Annotated[FiniteFloat, Field(ge=0), "a finite number from 0"]
_Power = Annotated[FiniteFloat, Field(ge=0), "a finite number from 0"]
_Length = Annotated[FiniteFloat, Field(gt=0), "a finite number above 0"]
_Boundaries = Annotated[Sequence[FiniteFloat], Field(min_length=1), "a list of finite numbers, at least one"]
_Factors = Annotated[Sequence[_Factor], Field(min_length=1), "a list of finite numbers from 0, at least one"]
_Between = Annotated[Literal["linear", "cosine", "none"], "linear, cosine, none"]
_Cycles = Annotated[Literal["triangular", "triangular2", "exp_range"], "triangular, triangular2, exp_range"]
_Starts = Annotated[Sequence[_Count], "a list of whole numbers from 1 to 2^63 - 1"]
_Schedule = Annotated[Mapping[str, Any], "a schedule"]
_Schedules = Annotated[Sequence[_Schedule], Field(min_length=1), "a list of schedules, at least one"]

BY_GROUP = "by group"
"""The name of a claim that gives each parameter group a schedule of its own; it is no part of another claim."""
RECORDED = "recorded"
"""The name of a claim that has no formula: the rate of each step is on record beside the one that was used, as the option
`reserved_options.CLAIMED_RATE` of the group, taken from a scheduler that had been stepped `stepped` times and is stepped after
every `every` updates. It is no part of another claim."""

_ONE_CYCLE: Mapping[str, Any] = {
    "total": _Count,
    "pct_start": _Fraction,
    "div_factor": _Divisor,
    "final_div_factor": _Divisor,
}
SCHEDULES: Mapping[str, Mapping[str, Any]] = {
    "constant": {},
    "step": {"size": _Count, "gamma": _Gamma},
    "multistep": {"milestones": _Milestones, "gamma": _Gamma},
    "exponential": {"size": _Count, "gamma": _Gamma},
    "cosine": {"warmup": _Warmup, "total": _Count, "start_factor": _Fraction, "end_factor": _Fraction},
    "onecycle": _ONE_CYCLE,
    "linear onecycle": _ONE_CYCLE,
    "piecewise": {"start": _Factor, "boundaries": _Boundaries, "factors": _Factors, "between": _Between},
    "polynomial": {"total": _Count, "power": _Power},
    "cosine annealing": {"half_period": _Count, "end_factor": _Factor},
    "warm restarts": {"period": _Count, "multiplier": _Count, "end_factor": _Factor},
    "cyclic": {"up": _Length, "down": _Length, "peak_factor": _Factor, "mode": _Cycles, "gamma": _Gamma},
    "every": {"updates": _Count, "schedule": _Schedule},
    "sequential": {"milestones": _Starts, "schedules": _Schedules},
    "product": {"schedules": _Schedules},
    BY_GROUP: {"schedules": _Schedules},
    RECORDED: {"stepped": _Warmup, "every": _Count},
}
"""By the name of a claim: its other keys, all of them needed, and what each may be."""


_DEEPEST = 8  # claims within claims
_PIECES = 2000  # boundaries and claims in all: each is compiled


def read_schedule(claim: Claim, depth: int = 0) -> tuple[str, dict[str, Any]]:
    """Return the name of the claimed schedule and its numbers. `depth`: how many claims this one is within.

    Raises TraceError if there is no such schedule, a key is missing or unknown, or a value is not usable. The message
    names the key, its value and what is accepted.
    """
    name = claim.get("name")
    if not isinstance(name, str) or name not in SCHEDULES or (depth and name in (BY_GROUP, RECORDED)):
        raise _unusable(claim, "name", ", ".join(SCHEDULES if not depth else [*SCHEDULES][:-2]))
    kinds = SCHEDULES[name]
    others = sorted(set(claim) - set(kinds) - {"name"})
    if others:
        accepted = ", ".join(sorted(kinds)) or "no key but its name"
        raise TraceError(f"the schedule {name} has a key {reprlib.repr(others[0])}; it takes {accepted}")
    values = {key: _value(claim, key, kind) for key, kind in kinds.items()}
    _expect_to_fit(claim, name, values)
    if not depth and (pieces := _pieces(claim)) > _PIECES:
        raise TraceError(f"the schedule {name} is made of {pieces} pieces; accepted: at most {_PIECES}")
    within = values.get("schedules", [values["schedule"]] if "schedule" in values else [])
    if within and depth == _DEEPEST:
        raise TraceError(f"the schedule {name} is within {depth} others; accepted: at most {_DEEPEST - 1}")
    for inner in within:
        read_schedule(inner, depth + 1)
    return name, values


def _pieces(of: Any) -> int:
    """Return of how many boundaries and claims something is made."""
    if isinstance(of, Mapping):
        parts = cast(Claim, of)
        return 1 + sum(_pieces(parts[key]) for key in ("boundaries", "schedules", "schedule") if key in parts)
    return sum(map(_pieces, cast(list[Any], of))) if isinstance(of, list) else 1


def _expect_to_fit(claim: Claim, name: str, values: Mapping[str, Any]) -> None:
    """Raises TraceError for values that are usable, but not beside each other."""
    if name == "cosine" and values["warmup"] >= values["total"]:
        raise _unusable(claim, "warmup", f"a whole number below total, {values['total']}")
    if name in ("onecycle", "linear onecycle") and values["pct_start"] in (0.0, 1.0):
        raise _unusable(claim, "pct_start", "a number between 0 and 1")
    if name == "piecewise":
        if len(values["boundaries"]) != len(values["factors"]):
            raise _unusable(claim, "factors", f"as many as there are boundaries, {len(values['boundaries'])}")
        if not _ascends(values["boundaries"]):
            raise _unusable(claim, "boundaries", "numbers that ascend")
        if 0 in (values["start"], *values["factors"][:-1]):
            raise _unusable(claim, "factors" if values["start"] else "start", "above 0, but for the last factor")
    if name == "sequential":
        if len(values["milestones"]) != len(values["schedules"]) - 1:
            raise _unusable(claim, "milestones", f"one less than schedules, {len(values['schedules']) - 1}")
        if not _ascends(values["milestones"]):
            raise _unusable(claim, "milestones", "numbers that ascend")


def _ascends(numbers: Sequence[float]) -> bool:
    return all(a < b for a, b in pairwise(numbers))


def _value(claim: Claim, key: str, kind: Any) -> Any:
    """Return the value of a key. Raises TraceError if it is not there or not of this type."""
    try:
        return TypeAdapter(kind, config=ConfigDict(strict=True)).validate_python(claim.get(key))
    except ValidationError:
        raise _unusable(claim, key, kind.__metadata__[-1]) from None


def _unusable(claim: Claim, key: str, accepted: str) -> TraceError:
    what = f"the schedule's {key} is {_told(claim[key])}" if key in claim else f"the schedule has no {key}"
    return TraceError(f"{what}; accepted: {accepted}")


def _told(value: Any) -> str:
    try:
        return reprlib.repr(value)
    except ValueError:  # Python refuses to write out an integer of thousands of digits
        return "a number of thousands of digits"
