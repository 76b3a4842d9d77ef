"""Recorded gradients against recomputed ones, in standard deviations of their rounding errors.

Three measures, because each sees what the others cannot: the worst element sees a single wrong one; the norm sees
errors spread over a tensor, such as a wrong mixture of images; the factor between the two sees a wrong divisor,
whose error is the same everywhere while rounding errors cancel. In bfloat16 only the last can see 1 %.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crosscheck.twin.recompute import Expected, Twin

ELEMENT = 32.0
"""Beyond this an element is wrong. Correct kernels showed at most 7 (float16 on a CPU), 2.5 in bfloat16, 1.4 in float32."""
NORM = 4.0
"""Beyond this a tensor is wrong. Correct kernels showed at most 2.2 (float16 on a CPU) and 0.6 otherwise; wrong batches,
divisors, labels and pixels 7 and more (docs/gradient.md)."""
SCALE = 4.0
"""Beyond this a tensor is off by a factor. Correct kernels showed at most 3.6 (float16 on a CPU, its loss scale fallen to
1), and 1.2 otherwise."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Compared:
    """One tensor's recorded gradient. Each eta counts standard deviations; infinite if something is not finite."""

    eta: float  # the largest of an element
    index: tuple[int, ...]  # where that is
    recorded: float  # the element there
    expected: float
    over: int  # elements beyond ELEMENT
    norm_eta: float  # of the tensor: 2-norm of the error over that of the deviations
    relative: float  # 2-norm of the error over that of the expected gradient
    scale: float  # c, with c * expected closest to what was recorded
    scale_eta: float  # of c - 1
    power: float  # the smallest relative error of the whole tensor that would have shown

    @property
    def wrong(self) -> bool:
        return not (self.eta <= ELEMENT and self.norm_eta <= NORM and self.scale_eta <= SCALE)


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """All tensors of one step."""

    tensors: Mapping[str, Compared]
    scale: float  # one c for all, those counting most that show it most exactly
    power: float  # the smallest relative error common to all tensors that would have shown


def compare(twin: Twin, gradients: Mapping[str, NDArray[Any]]) -> Comparison:
    """The gradients of a pass as the trainer had them (of the whole batch, unscaled, not yet clipped) against its twin."""
    with np.errstate(all="ignore"):
        tensors = {name: _compare(twin.tensors[name], np.asarray(gradients[name], np.float64)) for name in twin.tensors}
        scales = np.array([found.scale for found in tensors.values()])
        weights = np.array([expected.scale_deviation**-2.0 for expected in twin.tensors.values()])
        scale = float(np.sum(weights * scales) / np.sum(weights))
    return Comparison(tensors=tensors, scale=scale, power=min(found.power for found in tensors.values()))


def _compare(expected: Expected, recorded: NDArray[np.float64]) -> Compared:
    exact, deviation = expected.gradient, expected.deviation
    eta = _no_nan(np.abs(recorded - exact) / deviation)
    index = np.unravel_index(int(np.argmax(eta)), eta.shape)
    norm, deviations, distance = (np.linalg.norm(x) for x in (exact, deviation, recorded - exact))
    scale = np.vdot(exact, recorded) / norm**2 if norm else np.float64(1.0)
    return Compared(
        eta=float(eta[index]),
        index=tuple(int(i) for i in index),
        recorded=float(recorded[index]),
        expected=float(exact[index]),
        over=int(np.sum(eta > ELEMENT)),
        norm_eta=float(_no_nan(distance / deviations)),
        relative=float(distance / norm),
        scale=float(scale),
        scale_eta=float(_no_nan(np.abs(scale - 1.0) / expected.scale_deviation)),
        power=float(min(SCALE * expected.scale_deviation, NORM * deviations / norm)),
    )


def _no_nan(eta: Any) -> Any:
    return np.where(np.isnan(eta), np.inf, eta)
