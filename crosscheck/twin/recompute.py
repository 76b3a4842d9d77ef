"""The gradient of a whole batch once more, in float64, and how far rounding can take it.

How far is found by trying: the same network runs again with every stored number, on the way forward and on the way
back, off by one roundoff up or down, at random (stochastic arithmetic; Vignes, *Mathematics and Computers in
Simulation* 35, 1993). A bound that sums up absolute values instead would hold, too, but five layers of sums make it
10^5 to 10^11 times the gradient, and it would let everything pass.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from numpy.typing import NDArray

from crosscheck.float64 import float64
from crosscheck.twin.network import POOLINGS, Images, differentiate
from crosscheck.twin.network_inputs import ROUNDOFF, STORED, Pass
from crosscheck.twin.pooling import Pooling

Floats = NDArray[np.float64]

REPEATS = 2  # perturbed passes over each chunk
SAMPLES = 16  # sums of independent errors that are kept


@dataclass(frozen=True, slots=True)
class Expected:
    """One tensor's gradient, and its rounding error."""

    gradient: Floats  # of the mean cross-entropy over the batch
    deviation: Floats  # standard deviation by element
    scale_deviation: float  # standard deviation of the factor that takes `gradient` closest to a rounded one


@dataclass(frozen=True, slots=True)
class Twin:
    """What a pass should have computed, and how its winners compare."""

    tensors: Mapping[str, Expected]
    poolings: tuple[Pooling, ...]


def recompute(record: Pass) -> Twin:
    """Gradients of the mean cross-entropy over the batch, with the winners of the record."""
    with float64(), np.errstate(all="ignore"):
        return _recompute(record)


def _recompute(record: Pass) -> Twin:
    parameters = record.rounded_parameters()
    random = np.random.default_rng(0)
    gradients = {name: np.zeros(value.shape) for name, value in parameters.items()}
    errors = {name: np.zeros((SAMPLES, *value.shape)) for name, value in parameters.items()}
    poolings = tuple(Pooling(name) for name in POOLINGS)

    def run(images: Images, *, given: bool) -> tuple[dict[str, Any], list[Any]]:
        return jax.device_get(differentiate(parameters, images, record.arithmetic, STORED[record.compute], given))

    for chunk, images in enumerate(record.chunks()):
        exact, windows = run(images, given=record.winners is not None)
        if record.winners is None:
            images = images._replace(winners=tuple(np.argmax(x, axis=3).astype(np.uint8) for x in windows))
        variances = [np.zeros(x.shape[-1]) for x in windows]
        for repeat in range(REPEATS):
            perturbed, moved = run(record.perturbed(images, random), given=True)
            for name, samples in errors.items():
                samples[(chunk * REPEATS + repeat) % SAMPLES] += perturbed[name] - exact[name]
            for variance, x, y in zip(variances, windows, moved, strict=True):
                variance += np.mean((y - x) ** 2, axis=(0, 1, 2, 3)) / REPEATS
        for name, gradient in gradients.items():
            gradient += exact[name]
        there = images.weights > 0
        for pooling, x, won, variance in zip(poolings, windows, images.winners, variances, strict=True):
            pooling.look(x[there], won[there], np.sqrt(variance), ROUNDOFF[record.compute])
    return Twin({name: _expected(gradients[name], errors[name], record) for name in gradients}, poolings)


def _expected(gradient: Floats, errors: Floats, record: Pass) -> Expected:
    # Errors of different images are independent, so those of REPEATS runs add up to REPEATS times the variance of one.
    variance = _smoothed(np.sum(errors**2, axis=0) / REPEATS)
    roundoff, floor, _ = record.arithmetic
    variance += (roundoff * gradient) ** 2 + floor**2  # the result is stored as well
    along = errors.reshape(SAMPLES, -1) @ gradient.ravel()
    # A few samples may happen to be small; independent errors of the elements would at least leave the second.
    scale = max(float(np.sum(along**2)) / REPEATS, float(np.sum(variance * gradient**2)))
    square = float(np.sum(gradient**2))
    return Expected(gradient, np.sqrt(variance), np.sqrt(scale) / square if square else np.inf)


def _smoothed(variance: Floats) -> Floats:
    """Few samples an element, so by output and input: the gradient of a weight is a sum of products of one of each."""
    mean = float(variance.mean())
    if variance.ndim == 1 or not mean > 0.0:
        return np.full_like(variance, mean)
    outputs = variance.mean(axis=tuple(range(1, variance.ndim)), keepdims=True)
    inputs = variance.mean(axis=(0, *range(2, variance.ndim)), keepdims=True)
    return np.broadcast_to(outputs * inputs / mean, variance.shape).copy()
