"""The gradient of a whole batch once more, in float64, and the same again with every stored number off by a roundoff."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from crosscheck.criterion.stochastic import REPEATS, SAMPLES, Expected, estimate
from crosscheck.float64 import float64
from crosscheck.twin.network import POOLINGS, Images, differentiate
from crosscheck.twin.network_inputs import COMPUTE, NetworkInputs
from crosscheck.twin.pooling import Pooling


@dataclass(frozen=True, slots=True)
class Twin:
    """What a pass should have computed, and how its winners compare."""

    tensors: Mapping[str, Expected]
    poolings: tuple[Pooling, ...]


@float64()
@np.errstate(all="ignore")
def recompute(record: NetworkInputs) -> Twin:
    """Compute the gradients of the mean cross-entropy over the batch, with the winners of the record."""
    parameters = record.rounded_parameters()
    arithmetic, stored = record.arithmetic, COMPUTE[record.compute].stored
    roundoff, floor, _ = arithmetic
    random = np.random.default_rng(0)
    gradients = {name: np.zeros(value.shape) for name, value in parameters.items()}
    errors = {name: np.zeros((SAMPLES, *value.shape)) for name, value in parameters.items()}
    poolings = tuple(Pooling(name) for name in POOLINGS)

    def run(images: Images, *, given: bool) -> tuple[dict[str, Any], list[Any]]:
        return jax.device_get(differentiate(parameters, images, arithmetic, stored, given))

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
            pooling.look(x[there], won[there], np.sqrt(variance), roundoff)
    tensors = {name: estimate(gradients[name], errors[name], roundoff, floor) for name in gradients}
    return Twin(tensors, poolings)
