"""Recorded gradients against recomputed ones, in standard deviations of their rounding errors.

How far rounding can take a gradient is found by trying: the network runs again with every stored number, on the way
forward and on the way back, off by one roundoff up or down, at random (stochastic arithmetic; Vignes, *Mathematics and
Computers in Simulation* 35, 1993). A bound that sums up absolute values instead would hold, too, but five layers of
sums make it 10^5 to 10^11 times the gradient, and it would let everything pass.

Three measures, because each sees what the others cannot: the worst element sees a single wrong one; the norm sees
errors spread over a tensor, such as a wrong mixture of images; the factor between the two sees a wrong divisor,
whose error is the same everywhere while rounding errors cancel. In bfloat16 only the last can see 1 %.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float64

REPEATS = 2  # perturbed passes over each chunk of images
SAMPLES = 16  # sums of independent errors that are kept

ELEMENT = 32.0
"""Beyond this an element is wrong. Correct kernels showed at most 7 (float16 on a CPU), 2.5 in bfloat16, 1.4 in float32."""
NORM = 4.0
"""Beyond this a tensor is wrong. Correct kernels showed at most 2.2 (float16 on a CPU) and 0.6 otherwise; wrong batches,
divisors, labels and pixels 7 and more (docs/gradient.md)."""
SCALE = 4.0
"""Beyond this a tensor is off by a factor. Correct kernels showed at most 3.6 (float16 on a CPU, its loss scale fallen to
1), and 1.2 otherwise."""


@dataclass(frozen=True, slots=True)
class Expected:
    """One tensor's gradient, and its rounding error."""

    gradient: Float64[np.ndarray, "*tensor"]  # of the mean cross-entropy over the batch
    deviation: Float64[np.ndarray, "*tensor"]  # standard deviation by element
    scale_deviation: float  # standard deviation of the factor that takes `gradient` closest to a rounded one


@dataclass(frozen=True, kw_only=True, slots=True)
class TensorComparison:
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
class GradientComparison:
    """All tensors of one step."""

    tensors: Mapping[str, TensorComparison]
    scale: float  # one c for all, those counting most that show it most exactly
    power: float  # the smallest relative error common to all tensors that would have shown


def estimate(
    gradient: Float64[np.ndarray, "*tensor"],
    errors: Float64[np.ndarray, " samples *tensor"],
    roundoff: float,
    floor: float,
) -> Expected:
    """Estimate how far rounding takes each element of `gradient`.

    Args:
        gradient: A tensor's gradient in float64.
        errors: SAMPLES sums of what REPEATS perturbed passes over independent images changed.
        roundoff: Relative error of a stored number.
        floor: Absolute error of a stored gradient.
    """
    # Errors of different images are independent, so those of REPEATS runs add up to REPEATS times the variance of one.
    variance = _smoothed(np.sum(errors**2, axis=0) / REPEATS)
    variance += (roundoff * gradient) ** 2 + floor**2  # the result is stored as well
    along = errors.reshape(SAMPLES, -1) @ gradient.ravel()
    # A few samples may happen to be small; independent errors of the elements would at least leave the second.
    scale = max(float(np.sum(along**2)) / REPEATS, float(np.sum(variance * gradient**2)))
    square = float(np.sum(gradient**2))
    return Expected(gradient, np.sqrt(variance), np.sqrt(scale) / square if square else np.inf)


def compare_gradients(
    expected: Mapping[str, Expected], recorded: Mapping[str, Float[np.ndarray, "..."]]
) -> GradientComparison:
    """Compare the gradients of a pass as the trainer had them (of the whole batch, unscaled, not yet clipped)."""
    with np.errstate(all="ignore"):
        tensors = {name: _compare(exact, np.asarray(recorded[name], np.float64)) for name, exact in expected.items()}
        scales = np.array([found.scale for found in tensors.values()])
        weights = np.array([exact.scale_deviation**-2.0 for exact in expected.values()])
        scale = float(np.sum(weights * scales) / np.sum(weights))
    return GradientComparison(tensors=tensors, scale=scale, power=min(found.power for found in tensors.values()))


def _compare(expected: Expected, recorded: Float64[np.ndarray, "*tensor"]) -> TensorComparison:
    exact, deviation = expected.gradient, expected.deviation
    eta = _no_nan(np.abs(recorded - exact) / deviation)
    index = np.unravel_index(int(np.argmax(eta)), eta.shape)
    norm, deviations, distance = (np.linalg.norm(x) for x in (exact, deviation, recorded - exact))
    scale = np.vdot(exact, recorded) / norm**2 if norm else np.float64(1.0)
    return TensorComparison(
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


def _no_nan(eta: Float64[np.ndarray | np.floating, "*tensor"]) -> Float64[np.ndarray, "*tensor"]:
    return np.where(np.isnan(eta), np.inf, eta)


def _smoothed(variance: Float64[np.ndarray, "*tensor"]) -> Float64[np.ndarray, "*tensor"]:
    """Average the variances by output and by input, because there are few samples of each element.

    The gradient of a weight is a sum of products, each of a number of its output and one of its input.
    """
    mean = float(variance.mean())
    if variance.ndim == 1 or not mean > 0.0:
        return np.full_like(variance, mean)
    outputs = variance.mean(axis=tuple(range(1, variance.ndim)), keepdims=True)
    inputs = variance.mean(axis=(0, *range(2, variance.ndim)), keepdims=True)
    return np.broadcast_to(outputs * inputs / mean, variance.shape).copy()
