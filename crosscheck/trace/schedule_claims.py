"""Which schedules of the learning rate can be claimed, and with which numbers. Imports neither JAX nor torch.

A claim is a JSON object: a `name`, and numbers that count applied updates. It is read here both where it is made, in the
trainer's process, and where it is replayed.
"""

import reprlib
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

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

SCHEDULES: Mapping[str, Mapping[str, Any]] = {
    "constant": {},
    "step": {"size": _Count, "gamma": _Gamma},
    "multistep": {"milestones": _Milestones, "gamma": _Gamma},
    "exponential": {"size": _Count, "gamma": _Gamma},
    "cosine": {"warmup": _Warmup, "total": _Count, "start_factor": _Fraction, "end_factor": _Fraction},
    "onecycle": {"total": _Count, "pct_start": _Fraction, "div_factor": _Divisor, "final_div_factor": _Divisor},
}
"""By the name of a claim: its other keys, all of them needed, and what each may be."""


def read_schedule(claim: Claim) -> tuple[str, dict[str, Any]]:
    """Return the name of the claimed schedule and its numbers.

    Raises TraceError if there is no such schedule, a key is missing or unknown, or a value is not usable. The message
    names the key, its value and what is accepted.
    """
    name = claim.get("name")
    if not isinstance(name, str) or name not in SCHEDULES:
        raise _unusable(claim, "name", ", ".join(SCHEDULES))
    kinds = SCHEDULES[name]
    others = sorted(set(claim) - set(kinds) - {"name"})
    if others:
        accepted = ", ".join(sorted(kinds)) or "no key but its name"
        raise TraceError(f"the schedule {name} has a key {reprlib.repr(others[0])}; it takes {accepted}")
    values = {key: _value(claim, key, kind) for key, kind in kinds.items()}
    if name == "cosine" and values["warmup"] >= values["total"]:
        raise _unusable(claim, "warmup", f"a whole number below total, {values['total']}")
    if name == "onecycle" and values["pct_start"] in (0.0, 1.0):
        raise _unusable(claim, "pct_start", "a number between 0 and 1")
    return name, values


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
