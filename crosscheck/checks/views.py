"""What happens around the optimizer, seen as steps of formulas of their own: the gradient's way, the moving average."""

import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from crosscheck.report.report import Finding
from crosscheck.rules.gradient import norm_error
from crosscheck.rules.rule import number
from crosscheck.tolerance import FAIL, FORMATS, Profile
from crosscheck.trace.format import AVERAGE, GRAD, Claims, Option, Part, Step
from crosscheck.trace.tensors import Quantity, TensorBlock

_ROUNDOFF = FORMATS["float32"].unit_roundoff  # what `norm_error` counts in
PLAIN = Profile("plain")
NORMED = Profile("with a norm taken by torch", scalar_error=_ROUNDOFF)


class Views:
    """Derives them from the tensors of one segment, part by part."""

    def __init__(self, claims: Claims | None, world_size: int) -> None:
        self.silent = claims is None
        self.claims, self.world_size = claims or Claims(), world_size
        self._applied = self.claims.applied  # before the part that comes next
        self._steps = self._with_backward = 0  # those applied
        self._options: dict[int, tuple[dict[str, Option], dict[str, Option]]] = {}  # by step: gradient's, average's

    def start(self, part: Part) -> Iterator[Finding]:
        """Take in a part's steps. Findings: norms that clipping and unscaling do not explain."""
        largest = max((tensor.numel for tensor in part.tensors), default=0)
        unit_roundoff = max((FORMATS[tensor.dtype].unit_roundoff for tensor in part.tensors), default=0.0)
        elements, error = sum(tensor.numel for tensor in part.tensors), norm_error(largest, unit_roundoff)
        self._options = {}
        for step in part.steps:
            options = self._of_gradient(step, error)
            seen = self.claims.averaged + self._applied - self.claims.applied
            self._options[step.step] = options, {"decay": self.claims.average, "seen": seen}
            self._applied += step.applied
            self._steps += step.applied
            self._with_backward += step.applied and step.backward_norm is not None
            if not self.silent:
                yield from _check_norm(step, options, unit_roundoff, elements)

    def notes(self) -> list[str]:
        """When the segment is over: what was recorded in part only."""
        if self.silent or self._with_backward in (0, self._steps):
            return []
        return [
            f"gradients at the end of backward are on record for {self._with_backward} of {self._steps} applied steps"
        ]

    def gradient(self, block: TensorBlock) -> TensorBlock | None:
        """From the gradient as backward left it to the one consumed; None where the former was not recorded.

        Without claims nobody says what should happen on the way.
        """
        if self.silent or not block.has_backward.any():
            return None
        there, zeros = block.has_backward, np.zeros_like(block.grad)
        options = [self._options[step.step][0] for step in block.steps]
        # What nothing should happen to, and nothing happened to, is right without arithmetic.
        settled = np.array([_leaves_alone(each) for each in options])
        if block.backward is not block.grad:
            settled &= np.all(block.backward == block.grad, axis=1)
        return replace(
            block,
            param=Quantity(zeros, block.grad, there, there, there),
            grad=block.backward,
            has_grad=there & ~settled,
            options=options,
            context={},
            slots={},
        )

    def average(self, block: TensorBlock) -> TensorBlock | None:
        """From the moving average before to the one after; None where it is not claimed or not recorded."""
        quantity = block.slots.get(AVERAGE)
        if quantity is None or self.claims.average is None:
            return None
        return replace(
            block,
            param=quantity,
            grad=block.param.after,
            has_grad=quantity.there_before & quantity.there_after,
            options=[self._options[step.step][1] for step in block.steps],
            context={},
            slots={},
            extras={"previous": block.param.before},
        )

    def _of_gradient(self, step: Step, error: float) -> dict[str, Option]:
        scale, claims = step.loss_scale or 1.0, self.claims
        options: dict[str, Option] = {"loss_scale": scale, "world_size": float(self.world_size)}
        if claims.clip_norm is not None and step.backward_norm is not None:
            norm = step.backward_norm / scale
            options |= {"clip_norm": claims.clip_norm, "norm": norm, "norm_eps": 1e-6, "norm_error": error}
        if claims.clip_value is not None:
            options["clip_value"] = claims.clip_value
        return options


def _leaves_alone(options: dict[str, Option]) -> bool:
    """Whether neither a loss scale nor clipping is to change the gradient."""
    if options["loss_scale"] != 1.0 or "clip_value" in options:
        return False
    if "clip_norm" not in options:
        return True
    h = {name: number(options, name) for name in ("norm", "norm_eps", "norm_error", "clip_norm")}
    return (h["norm"] + h["norm_eps"]) * (1 + h["norm_error"] * _ROUNDOFF) < h["clip_norm"]


def _check_norm(step: Step, options: dict[str, Option], unit_roundoff: float, elements: int) -> Iterator[Finding]:
    """The norm of all elements, for those that were not sampled. Clamping leaves no such relation."""
    if step.backward_norm is None or not step.applied or "clip_value" in options:
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
            check="gradient",
            cause="the norm of the gradients consumed is not that of the gradients at the end of backward, unscaled and clipped",
        )
