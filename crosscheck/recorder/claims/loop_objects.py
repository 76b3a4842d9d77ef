"""Reads what the objects of a training loop say of it: scheduler, model, averaged model, bounds of clipping."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.swa_utils import AveragedModel

from crosscheck.errors import TraceError
from crosscheck.recorder.claims.averages import kind_of_average, pairs_of
from crosscheck.recorder.claims.schedule_formulas import formula_of
from crosscheck.recorder.claims.scheduler import times_stepped, unwrap_scheduler
from crosscheck.recorder.claims.stepped_copy import SteppedCopy
from crosscheck.trace.format import Claims, Option
from crosscheck.trace.reserved_options import AVERAGED, CLAIMED_RATE, CLIP_NORM, CLIP_VALUE, TIMES_STEPPED
from crosscheck.trace.schedule_claims import RECORDED

_WRAPPERS = ("module.", "_orig_mod.")  # what DistributedDataParallel and torch.compile put before a name
_WHERE = {"schedule": "the scheduler", "average": "the AveragedModel", "averaged": "the AveragedModel's n_averaged"}
"""What a claim was read from."""
_Options = tuple[dict[str, Option], ...]


class LoopObjects:
    """Joins claims that are read from objects with those that were written down, and says what the objects claim of each step."""

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        *,
        claims: Claims | None,
        scheduler: Any,
        scheduler_every: int,
        clip_norm: float | None,
        clip_value: float | None,
        model: Module | None,
        named_parameters: Iterable[tuple[str, Tensor]] | None,
        average: Iterable[tuple[Tensor, Tensor]] | AveragedModel,
        first_step: int,
    ) -> None:
        """Read all objects. Raises TraceError for one that no claim can be read from, and for two that contradict each other."""
        if model is not None and named_parameters is not None:
            raise TraceError("model= and named_parameters= both name the parameters; give one of them")
        named = _names(model) if model is not None else named_parameters or ()
        self.names: dict[Tensor, str] = {parameter: name for name, parameter in named}
        """Names of parameters. What tracks the parameters removes those that are not to be kept alive."""
        self._averaged = average if isinstance(average, AveragedModel) else None
        pairs = pairs_of(average, model) if isinstance(average, AveragedModel) else average
        self.average: dict[Tensor, Tensor] = dict(pairs)
        """The average of each parameter, likewise."""
        self._scheduler: LRScheduler | None = None
        self._copy: SteppedCopy | None = None
        self._clips: dict[str, Option] = {}
        self._expects_clips = self._counts_scheduler = False
        read: dict[str, Any] = {"clip_norm": clip_norm, "clip_value": clip_value}
        if self._averaged is not None:
            read["average"] = kind_of_average(self._averaged, claims.average if claims is not None else None)
            read["averaged"] = int(self._averaged.n_averaged)
        if scheduler is not None:
            read |= self._read_schedule(scheduler, optimizer, claims, scheduler_every, first_step)
        elif scheduler_every != 1:
            raise TraceError(f"scheduler_every={scheduler_every} is about a scheduler; give scheduler= as well")
        self.claims = _join(claims, {name: value for name, value in read.items() if value is not None})
        """All that is claimed; None if nothing is."""

    def with_claims(self, options: _Options, *, applied: bool, warn: Callable[[str], None]) -> _Options:
        """Return the options of a step with the rates and the clipping that are claimed of it, and go on to the next step.

        `warn` is told, once, if nothing gives the rates any more.
        """
        claimed: list[dict[str, Option]] = [{} for _ in options]
        if self._copy is not None:
            for group, rate in zip(claimed, self._copy.rates(warn), strict=False):
                group[CLAIMED_RATE] = rate
            if applied:
                self._copy.applied()
        if self._counts_scheduler and self._scheduler is not None and claimed:
            claimed[0][TIMES_STEPPED] = int(times_stepped(self._scheduler))
        if self._expects_clips and claimed:
            claimed[0] |= self._clips or {CLIP_NORM: float("nan"), CLIP_VALUE: float("nan")}
            self._clips = {}
        return _with(options, claimed)

    def with_averaged(self, options: _Options) -> _Options:
        """Return the options of a step with the number of updates that the average has seen when the step is over."""
        if self._averaged is None:
            return options
        return _with(options, [{AVERAGED: int(self._averaged.n_averaged)}, *({} for _ in options[1:])])

    def watch_scheduler(self) -> None:
        """Record how often the scheduler has been stepped, from now on: nobody said how often the loop is to step it."""
        self._counts_scheduler = True

    def watch_clipping(self) -> None:
        """Expect a call of `clipped` for each step that is clipped, from now on.

        For a step without that call no clipping is claimed.
        """
        self._expects_clips = True

    def clipped(self, *, norm: float | None = None, value: float | None = None) -> None:
        """Note the bound at which the gradients of the coming step are clipped.

        NaN says that no claim can describe the clipping.
        """
        if self._clips:  # twice in a step
            norm = value = float("nan")
        self._clips = {CLIP_NORM: norm, CLIP_VALUE: value}

    def _read_schedule(
        self, scheduler: Any, optimizer: torch.optim.Optimizer, claims: Claims | None, every: int, first_step: int
    ) -> dict[str, Any]:
        if every < 1:
            raise TraceError(
                f"scheduler_every={every}: accepted are whole numbers from 1, the updates to one of its steps"
            )
        self._scheduler = inner = unwrap_scheduler(scheduler, optimizer)
        stepped = times_stepped(inner)
        told = claims is not None and "applied" in claims.model_fields_set
        if every > 1 and stepped and not told:
            raise TraceError(
                f"scheduler_every={every} in a run that goes on: say how many updates were applied, as "
                "claims=Claims(applied=...), since the scheduler counts only its own steps"
            )
        fresh = first_step == 1 and _would_hold_state(optimizer) and not any(optimizer.state.values())
        applied = claims.applied if claims is not None and told else 0 if fresh else stepped * every
        schedule = formula_of(inner, optimizer, every)
        if schedule is None:
            self._copy = SteppedCopy(inner, optimizer, every=every, applied=applied)
            schedule = {"name": RECORDED, "stepped": stepped, "every": every}
        return {"schedule": schedule, "applied": applied}


def _with(options: _Options, more: Sequence[dict[str, Option]]) -> _Options:
    """Return new options of each group, as those given may be shared by many steps."""
    return tuple(group | added for group, added in zip(options, more, strict=True)) if any(more) else options


def _would_hold_state(optimizer: torch.optim.Optimizer) -> bool:
    """Return whether an optimizer of this kind holds state once it has taken a step."""
    return any({"betas", "beta1"} & set(group) or group.get("momentum") for group in optimizer.param_groups)


def _names(model: Module) -> Iterable[tuple[str, Tensor]]:
    for name, parameter in model.named_parameters():
        while name.startswith(_WRAPPERS):
            name = name.partition(".")[2]
        yield name, parameter


def _join(claims: Claims | None, read: Mapping[str, Any]) -> Claims | None:
    """Return what was written down and what was read, together. Raises TraceError, by name, where they contradict.

    Objects alone say nothing of clipping, unless its bound is among them. What is written down says that there is none.
    """
    if claims is None:
        silent = {} if {"clip_norm", "clip_value"} & set(read) else {"clip_norm": math.nan}
        return Claims(**silent, **read) if read else None
    written = {name: getattr(claims, name) for name in claims.model_fields_set}
    for name, value in read.items():
        if written.get(name) is not None and written[name] != value:
            raise TraceError(
                f"claims.{name} = {written[name]!r}, but {_WHERE.get(name, name + '=')} says {value!r}; "
                "correct the one that is wrong, or leave one of them out"
            )
    return Claims(**(written | dict(read)))
