"""What a trainer recorded of one update's forward and backward pass, and the same in pieces for the network."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from crosscheck.tolerance import FORMATS
from crosscheck.trace.format import DType
from crosscheck.twin.network import CONVOLUTIONS, LINEAR, Arithmetic, Images, Stored


class Compute(NamedTuple):
    """The format in which the network computes."""

    roundoff: float
    """By how much a stored number may be off. In float32 and float64 by 256 of its own roundoffs: a bias gradient is a sum
    over every pixel of the batch, on a CPU added up one by one. bfloat16 is summed up in float32, so that the last rounding
    is what counts; so is float16 on a GPU, but a CPU rounds parts of a sum as well. No trace holds a pass in float64: that
    is for tests of the twin itself."""
    stored: Stored
    enters: Any = np.float64
    """NumPy's type of what the first operation reads."""


COMPUTE: Mapping[DType, Compute] = {
    "float64": Compute(2.0**-45, Stored(52)),
    "float32": Compute(2.0**-16, Stored(23)),
    "bfloat16": Compute(FORMATS["bfloat16"].unit_roundoff, Stored(7), ml_dtypes.bfloat16),
    "float16": Compute(2 * FORMATS["float16"].unit_roundoff, Stored(10, smallest=2.0**-24), np.float16),
}

CHUNK = 8  # images in memory at a time; one shape, so one compilation


@dataclass(frozen=True, kw_only=True, slots=True)
class NetworkInputs:
    """One forward and backward pass over a whole batch of B images, H by W pixels in C channels."""

    images: NDArray[np.uint8]  # (B, H, W, C)
    labels: NDArray[np.int64]  # (B,)
    parameters: Mapping[str, NDArray[Any]]  # torch's names and layouts
    mean: NDArray[Any]  # (C,): a pixel x enters as (x / 255 - mean) / std
    std: NDArray[Any]  # (C,)
    label_smoothing: float = 0.0
    winners: tuple[NDArray[np.uint8], ...] | None = None
    """For each pooling (B, C, H/2, W/2), 0 to 3: 2 dy + dx of the element that won its window. None, for tests of
    the twin itself: float64's own."""
    compute: DType = "float32"
    """The format of forward and backward; where it is a half, torch.autocast's."""
    loss_scale: float = 1.0
    """What the mean over the batch was multiplied by before the backward pass: the loss scale of float16, times the
    number of ranks where DDP divides by it. The gradients themselves no longer have it."""

    @property
    def arithmetic(self) -> Arithmetic:
        floor = FORMATS[self.compute].floor / self.loss_scale
        return Arithmetic(COMPUTE[self.compute].roundoff, floor, self.loss_scale)

    def rounded_parameters(self) -> dict[str, NDArray[np.float64]]:
        """Return the parameters as the first operation reads them."""
        return {name: self._rounded(np.asarray(value)) for name, value in self.parameters.items()}

    def chunks(self) -> Iterator[Images]:
        """Yield the batch in pieces of CHUNK images, nothing perturbed; images that fill up the last have no weight."""
        size, classes = len(self.labels), len(self.parameters[f"{LINEAR[-1]}.bias"])
        stored = self._stored()
        unknown = [np.zeros((size, channels, *area), np.uint8) for *area, channels in stored[: len(CONVOLUTIONS)]]
        for first in range(0, size, CHUNK):
            part = slice(first, first + CHUNK)
            labels = self.labels[part]
            targets = np.full((len(labels), classes), self.label_smoothing / classes)
            targets[np.arange(len(labels)), labels] += 1.0 - self.label_smoothing
            pixels = self._rounded((self.images[part] / 255.0 - self.mean) / self.std)
            yield Images(
                pixels=_filled(pixels),
                targets=_filled(targets),
                weights=_filled(np.full(len(pixels), 1.0 / size)),
                winners=tuple(_filled(won[part].transpose(0, 2, 3, 1)) for won in self.winners or unknown),
                signs=tuple(np.zeros((CHUNK, *shape), np.int8) for shape in stored),
            )

    def perturbed(self, images: Images, random: np.random.Generator) -> Images:
        """Return the images with every number off by one roundoff, up or down."""
        there = images.weights > 0

        def signs(shape: tuple[int, ...]) -> NDArray[np.int8]:
            drawn = 2 * random.integers(0, 2, shape, np.int8) - 1
            return drawn * there.reshape(-1, *[1] * (len(shape) - 1))

        # Normalised in float32 at best, whatever comes afterwards, by a subtraction that cancels.
        error = min(COMPUTE["float32"].roundoff, COMPUTE[self.compute].roundoff) * (
            np.abs(images.pixels) + np.abs(self.mean / self.std)
        )
        return images._replace(
            pixels=images.pixels + error * signs(images.pixels.shape),
            signs=tuple(signs(zeros.shape) for zeros in images.signs),
        )

    def _rounded(self, values: NDArray[Any]) -> NDArray[np.float64]:
        """Round values as autocast does before the first operation."""
        return values.astype(COMPUTE[self.compute].enters).astype(np.float64)

    def _stored(self) -> list[tuple[int, ...]]:
        """Return the shape of what each layer stores of an image, behind its pooling where it has one."""
        _, height, width, _ = self.images.shape
        convolutions = [len(self.parameters[f"{name}.bias"]) for name in CONVOLUTIONS]
        pooled = [(height >> i, width >> i, channels) for i, channels in enumerate(convolutions, 1)]
        return [*pooled, *[(len(self.parameters[f"{name}.bias"]),) for name in LINEAR]]


def _filled(x: NDArray[Any]) -> NDArray[Any]:
    """Fill up an array with zeros to CHUNK images."""
    return np.pad(x, [(0, CHUNK - len(x)), *[(0, 0)] * (x.ndim - 1)])
