"""Refuses claims that no replay could check, as soon as the recorder is attached."""

from collections.abc import Mapping, Sequence

from crosscheck.errors import TraceError
from crosscheck.trace.format import Claims, Option, TensorInfo
from crosscheck.trace.schedule_claims import RECORDED


def expect_checkable(
    claims: Claims,
    tensors: Sequence[TensorInfo],
    groups: Sequence[Mapping[str, Option]],
    *,
    fresh: bool,
    averaged: bool,
) -> None:
    """Raises TraceError, which names key, value and fix, for a claim that a replay could not check.

    Args:
        claims: What is claimed.
        tensors: Those that are recorded.
        groups: The options of each parameter group, as they are now.
        fresh: The run begins with this recording.
        averaged: The recorder was given the moving average.
    """
    for name, options in (claims.options or {}).items():
        group = next((tensor.group for tensor in tensors if tensor.name == name), None)
        if group is None:
            known = ", ".join(tensor.name for tensor in tensors[:8]) + (", …" if len(tensors) > 8 else "")
            raise TraceError(
                f"claims.options names {name!r}, which is not recorded; recorded are {known}: give the recorder "
                "named_parameters=, or leave the tensor out"
            )
        _expect_options(name, options, groups[group], claims)
    if claims.clip_norm is not None and claims.clip_value is not None:
        raise TraceError(
            f"clip_norm = {claims.clip_norm:g} and clip_value = {claims.clip_value:g} are both claimed: of gradients that were "
            "clipped twice no norm in between is recorded; claim the last of the two, and call after_backward between them"
        )
    if claims.average is not None and not averaged:
        raise TraceError(
            f"claims.average = {claims.average}, but the recorder has no moving average to look at: give it "
            "average=zip(model.parameters(), averaged.module.parameters()), or claim none"
        )
    if claims.schedule is not None and claims.schedule.get("name") != RECORDED and not fresh:
        _expect_initial_rates(claims, tensors, groups)


def _expect_options(name: str, claimed: Mapping[str, Option], group: Mapping[str, Option], claims: Claims) -> None:
    for option, value in claimed.items():
        where = f"claims.options[{name!r}][{option!r}] = {value!r}"
        if option == "lr" and "initial_lr" not in group and claims.schedule is None:
            raise TraceError(
                f"{where} is the rate without the factor of a schedule; no scheduler has set initial_lr to compare it with: "
                "claim the schedule too, such as schedule={'name': 'constant'}, or leave lr out"
            )
        if option != "lr" and option not in group:
            raise TraceError(f"{where}: its parameter group has no such option; it has {', '.join(group)}")


def _expect_initial_rates(
    claims: Claims, tensors: Sequence[TensorInfo], groups: Sequence[Mapping[str, Option]]
) -> None:
    claimed = {tensor.group for tensor in tensors if "lr" in (claims.options or {}).get(tensor.name, {})}
    for number, group in enumerate(groups):
        if number not in claimed and "initial_lr" not in group:
            raise TraceError(
                f"claims.schedule = {claims.schedule}: it multiplies the initial learning rate, which nothing tells for "
                f"parameter group {number} of a run that goes on: make the scheduler, which sets initial_lr, before the "
                "recorder, or name the rate as claims.options={tensor: {'lr': ...}}"
            )
