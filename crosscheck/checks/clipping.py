"""Is the gradient that the optimizer consumed the one that backward left, unscaled and clipped as claimed?"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from crosscheck.checks.check import Check
from crosscheck.criterion.profile import Profile
from crosscheck.report import check_names
from crosscheck.report.finding import Finding
from crosscheck.rules.clipping import CLIPPING, norm_error
from crosscheck.rules.rule import number
from crosscheck.tolerance import FAIL, FORMATS
from crosscheck.trace.format import GRAD, Option, Part, Step, as_float
from crosscheck.trace.reserved_options import CLIP_NORM, CLIP_VALUE
from crosscheck.trace.tensors import Quantity, TensorBlock

_ROUNDOFF = FORMATS["float32"].unit_roundoff  # what `norm_error` counts in
_ALIKE = 0.01  # norms that differ by less are of gradients with the same factor
_UNCLAIMED = (
    "gradients at the end of backward are on record, but nothing says how they are clipped, so they were not checked: "
    "give the recorder clip_norm or clip_value"
)
_UNCLAIMED_AT_ALL = f"{_UNCLAIMED}, or claims=Claims() where nothing changes them"
_NORMED = Profile("with a norm taken by torch", scalar_error=_ROUNDOFF)


class Bounds(NamedTuple):
    """At what the gradients of a step are clipped.

    None: not at all, as far as anybody says. A norm of NaN: no claim can describe it.
    """

    norm: float | None = None
    value: float | None = None


class Clipping(Check):
    """Judges the way from backward to the optimizer as if it were a step.

    Without a claim nobody says whether the gradient is clipped, but a loss scale on record says what it is divided by.
    """

    def start(self) -> None:
        claims = self.segment.header.claims
        bounds = Bounds() if claims is None else Bounds(claims.clip_norm, claims.clip_value)
        # A claim of other things has NaN, which says nothing of clipping.
        self._silent = claims is None or (_is_nan(bounds.norm) and bounds.value is None)
        self._claimed = Bounds() if self._silent else bounds
        self._bounds = self._claimed  # of the last step
        self._applied = self._with_backward = 0  # steps
        # Before clipping, over all segments so far; below zero: no gradient of backward is on record.
        self._largest_norm = max((check._largest_norm for check in self.earlier), default=-1.0)
        self._largest_element = max((check._largest_element for check in self.earlier), default=-1.0)
        self._options: dict[int, dict[str, Option]] = {}  # by step of the part
        self.context.judge.batcher(CLIPPING, _NORMED)

    def part(self, part: Part, options: list[list[dict[str, Option]]]) -> None:
        """Hold the norms against each other, which covers the elements that were not sampled."""
        largest = max((tensor.numel for tensor in part.tensors), default=0)
        unit_roundoff = max((FORMATS[tensor.dtype].unit_roundoff for tensor in part.tensors), default=0.0)
        device = part.tensors[0].device if part.tensors else "cpu"
        elements, error = sum(tensor.numel for tensor in part.tensors), norm_error(largest, unit_roundoff, device)
        bounds = [self._bounds_of(groups[0] if groups else {}) for groups in options]
        self._bounds = bounds[-1]
        self._options = {
            step.step: self._options_of(step, its, error, unit_roundoff)
            for step, its in zip(part.steps, bounds, strict=True)
        }
        for step in part.steps:
            self._applied += step.applied
            self._with_backward += step.applied and step.backward_norm is not None
            if step.applied and step.backward_norm is not None and math.isfinite(step.backward_norm):
                self._largest_norm = max(self._largest_norm, step.backward_norm / (step.loss_scale or 1.0))
            if not _unknown(self._options[step.step]):
                self.context.findings.add(_check_norm(step, self._options[step.step], unit_roundoff, elements))

    def tensor(self, tensor: TensorBlock) -> None:
        zeros, options = np.zeros_like(tensor.grad), [self._options[step.step] for step in tensor.steps]
        applied = tensor.applied
        there = tensor.has_backward & applied & ~np.array([_unknown(each) for each in options])
        if not there.any():
            return
        # What nothing should happen to, and nothing happened to, is right without arithmetic.
        untouched = np.array([not _unknown(each) and _leaves_alone(each) for each in options])
        if tensor.backward is not tensor.grad:
            untouched &= np.all(tensor.backward == tensor.grad, axis=1)
        as_step = replace(
            tensor,
            param=Quantity(zeros, tensor.grad, there, there, there),
            grad=tensor.backward,
            has_grad=there & ~untouched,
            options=options,
            context={},
            slots={},
        )
        self.answered = True
        if self._bounds.value is not None:
            scales = np.array([step.loss_scale or 1.0 for step in tensor.steps])
            sizes = np.abs(tensor.backward.astype(np.float64)) / scales[:, None]
            self._largest_element = max(self._largest_element, float(np.max(sizes[there], initial=-1.0)))
        self.context.judge.add(CLIPPING, as_step)

    def finish(self) -> None:
        """Note whether gradients are not on record or not checked, and whether anything was clipped."""
        if self._with_backward and not self.answered:
            self.context.unclaimed.add(check_names.CLIPPING)
            said = _UNCLAIMED_AT_ALL if self._silent else _UNCLAIMED
            self.context.notes += [said] if said not in self.context.notes else []
        elif self._with_backward not in (0, self._applied):
            self.context.notes.append(
                f"gradients at the end of backward are on record for {self._with_backward} of {self._applied} applied steps"
            )

        self._note_claim("clip_norm", self._bounds.norm, "norm", self._largest_norm)
        self._note_claim("clip_value", self._bounds.value, "element", self._largest_element)

    def _note_claim(self, claim: str, limit: float | None, what: str, largest: float) -> None:
        """Note that a bound is claimed, and whether the largest `what` of a gradient was beyond it."""
        if limit is None or math.isnan(limit):
            return
        untested = f"nothing was clipped; the largest {what} of a gradient on record is {largest:.3g}"
        if not self._applied:
            untested = "no step on record was applied"
        elif largest < 0:
            untested = "no gradient of backward is on record; the trainer is to call Recorder.after_backward"
        self.context.claimed(check_names.CLIPPING, f"{claim} = {limit:g}", "" if largest > limit else untested)

    def _bounds_of(self, first_group: Mapping[str, Option]) -> Bounds:
        """Return the bounds of a step: those claimed; where none is, those that the loop's own call told."""
        if self._claimed != Bounds():
            return self._claimed
        return Bounds(as_float(first_group.get(CLIP_NORM)), as_float(first_group.get(CLIP_VALUE)))

    def _options_of(self, step: Step, bounds: Bounds, error: float, unit_roundoff: float) -> dict[str, Option]:
        """Return what makes the consumed gradient of the one that backward left.

        Where nothing is said of clipping there may be some, so that only the loss scale is held to.
        """
        scale = step.loss_scale or 1.0
        options: dict[str, Option] = {"loss_scale": scale, "world_size": float(self.segment.header.world_size)}
        clip_norm, clip_value = bounds
        if clip_norm is not None and clip_value is not None:
            return options | {"clip_norm": math.nan}  # the norm between the two clippings is not on record
        if self._silent and clip_norm is None and clip_value is None:
            return options if _shows_unscaling(step, unit_roundoff) else options | {"clip_norm": math.nan}
        if clip_norm is not None and step.backward_norm is not None:
            norm = step.backward_norm / scale
            options |= {"clip_norm": clip_norm, "norm": norm, "norm_eps": 1e-6, "norm_error": error}
        if clip_value is not None:
            options["clip_value"] = clip_value
        return options


def _unknown(options: dict[str, Option]) -> bool:
    """Return whether nobody said how the gradient is clipped, or no claim can hold it."""
    return any(map(_is_nan, (options.get("clip_norm"), options.get("clip_value"))))


def _is_nan(value: Option) -> bool:
    return isinstance(value, float) and math.isnan(value)


def _shows_unscaling(step: Step, unit_roundoff: float) -> bool:
    """Return whether a step tells what it was divided by, though nobody says what else is done to its gradient.

    That is so if its norm is the one of a gradient that was divided by the loss scale once, never or twice, and not changed
    otherwise.
    """
    scale = step.loss_scale
    if scale is None or not step.backward_norm or step.grad_norm is None:
        return False
    left = step.grad_norm / step.backward_norm * scale
    as_if_wrong = scale != 1 and (abs(left / scale - 1) < _ALIKE or abs(left * scale - 1) < _ALIKE)
    return abs(left - 1) <= 4 * unit_roundoff or as_if_wrong


def _leaves_alone(options: dict[str, Option]) -> bool:
    """Return whether neither a loss scale nor clipping is to change the gradient."""
    if options["loss_scale"] != 1.0 or "clip_value" in options:
        return False
    if "clip_norm" not in options:
        return True
    h = {name: number(options, name) for name in ("norm", "norm_eps", "norm_error", "clip_norm")}
    return (h["norm"] + h["norm_eps"]) * (1 + h["norm_error"] * _ROUNDOFF) < h["clip_norm"]


def _check_norm(step: Step, options: dict[str, Option], unit_roundoff: float, elements: int) -> Iterator[Finding]:
    """Compare the norms over all elements, sampled or not. Clamping leaves no relation between them, so it is not checked."""
    if step.backward_norm is None or step.grad_norm is None or not step.applied or "clip_value" in options:
        return
    h = {name: number(options, name) for name in options}
    expected, error = step.backward_norm / h["loss_scale"], 4 * unit_roundoff
    if "clip_norm" in h:
        error += h["norm_error"] * _ROUNDOFF if expected > h["clip_norm"] else 0.0
        expected *= min(1.0, h["clip_norm"] / (expected + h["norm_eps"]))
    if not math.isfinite(expected) and not math.isfinite(step.grad_norm):
        return
    distance = abs(step.grad_norm - expected)
    floor = math.sqrt(elements) * (2.0**-25 if unit_roundoff == FORMATS["float16"].unit_roundoff else 2.0**-126)
    if not distance <= FAIL * (error * expected + floor):
        yield Finding(
            step=step.step,
            tensor="all tensors",
            slot=GRAD,
            recorded=step.grad_norm,
            expected=expected,
            eta=distance / (error * expected + floor),
            check=check_names.CLIPPING,
            cause="the norm of the gradients consumed is not that of the gradients at the end of backward, unscaled and clipped",
        )
