"""Checks a recorded pass before its gradient is recomputed: it must be whole, of the twin's network, and not too much work."""

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from crosscheck.errors import TraceError
from crosscheck.trace.reader import LoadedPass
from crosscheck.twin.network import CONVOLUTIONS, LINEAR, POOLINGS
from crosscheck.twin.network_inputs import NetworkInputs

_SHAPES: dict[str, tuple[int | None, ...]] = {
    **{f"{name}.weight": (None, None, 5, 5) for name in CONVOLUTIONS},
    **{f"{name}.weight": (None, None) for name in LINEAR},
    **{f"{name}.bias": (None,) for name in (*CONVOLUTIONS, *LINEAR)},
}
_NUMBERS = 2**19
"""Numbers that the layers may make of one image. The article's network makes 45,130, and eight images are in memory at a time."""
_PARAMETERS = 2**20
"""Elements of all parameters; sixteen sums of errors are kept of each. The article's network has 145,578."""
_WORK = 2**10
"""Multiplications of one forward pass over the batch for each byte of the file. The article's network needs 860 for each byte
that an image of its batch takes."""


def inputs_of(loaded: LoadedPass) -> tuple[NetworkInputs, dict[str, NDArray[np.float32]]]:
    """Return what the network computed from, and the gradients that were recorded.

    Raises TraceError for a pass that is not whole, or of another network, or takes too much memory or time.
    """
    described = loaded.described
    if described.network != "article":
        raise TraceError(
            f"{loaded.path}: there is no twin of the network {described.network!r}; there is one of 'article'"
        )
    _expect_numbers(loaded)
    size, height, width, channels = loaded.expect("images", "uint8", (None, None, None, None))
    fits = size and channels and height == width and height and not height % 8
    if not fits or len(described.mean) != channels or len(described.std) != channels:
        raise TraceError(
            f"{loaded.path}: images of shape {(size, height, width, channels)} are not what the network takes"
        )
    shapes = {name: loaded.expect(f"parameter/{name}", "float32", shape) for name, shape in _SHAPES.items()}
    _expect_layers(loaded, shapes, channels, height)
    _expect_little_work(loaded, shapes, size, height)
    images = loaded.array("images", "uint8", (size, height, width, channels))
    labels = loaded.array("labels", "int64", (size,))
    if labels.min() < 0 or labels.max() >= shapes[f"{LINEAR[-1]}.bias"][0]:
        raise TraceError(f"{loaded.path}: labels are not classes of the network")
    winners = tuple(
        loaded.array(f"winners/{k}", "uint8", (size, shapes[f"{name}.bias"][0], height >> (k + 1), height >> (k + 1)))
        for k, name in zip(range(len(POOLINGS)), CONVOLUTIONS, strict=True)
    )
    if any(won.max() > 3 for won in winners):
        raise TraceError(f"{loaded.path}: winners are numbers from 0 to 3")
    inputs = NetworkInputs(
        images=images,
        labels=labels,
        parameters={name: loaded.array(f"parameter/{name}", "float32", shape) for name, shape in shapes.items()},
        mean=np.array(described.mean),
        std=np.array(described.std),
        label_smoothing=described.label_smoothing,
        winners=winners,
        compute=described.compute,
        loss_scale=described.loss_scale * described.world_size,  # DDP divides the sum over the ranks
    )
    return inputs, {name: loaded.array(f"gradient/{name}", "float32", shape) for name, shape in shapes.items()}


def _expect_numbers(loaded: LoadedPass) -> None:
    """Check the numbers of the description. Raises TraceError."""
    described = loaded.described
    scale = described.loss_scale * described.world_size
    if not (described.loss_scale > 0 and scale < math.inf and all(0 < std < math.inf for std in described.std)):
        raise TraceError(f"{loaded.path}: loss_scale and std are to be positive, and finite")
    if not all(map(math.isfinite, described.mean)):
        raise TraceError(f"{loaded.path}: mean is to be finite")
    if not 0 <= described.label_smoothing <= 1:
        raise TraceError(f"{loaded.path}: label_smoothing is {described.label_smoothing}; accepted: from 0 to 1")


def _expect_layers(loaded: LoadedPass, shapes: Mapping[str, tuple[int, ...]], channels: int, size: int) -> None:
    """Check that each layer takes what the one before gives. Raises TraceError."""
    inputs = channels
    for name in (*CONVOLUTIONS, *LINEAR):
        weight, bias = shapes[f"{name}.weight"], shapes[f"{name}.bias"]
        if name == LINEAR[0]:
            inputs *= (size >> len(CONVOLUTIONS)) ** 2
        if weight[1] != inputs or weight[0] != bias[0] or not bias[0]:
            raise TraceError(f"{loaded.path}: {name}.weight is {weight}, which does not follow the layer before")
        inputs = bias[0]


def _expect_little_work(loaded: LoadedPass, shapes: Mapping[str, tuple[int, ...]], images: int, size: int) -> None:
    """Raises TraceError for a pass of which the recomputation takes more memory or time than the limits above allow."""
    made = multiplications = 0
    for k, name in enumerate((*CONVOLUTIONS, *LINEAR)):
        area = (size >> k) ** 2 if name in CONVOLUTIONS else 1
        made += area * shapes[f"{name}.bias"][0]
        multiplications += area * math.prod(shapes[f"{name}.weight"])
    parameters = sum(map(math.prod, shapes.values()))
    most = _WORK * loaded.nbytes
    for what, needed, limit, why in (
        (f"numbers that the layers make of an image of {size} x {size}", made, _NUMBERS, ""),
        ("elements of all parameters", parameters, _PARAMETERS, ""),
        (f"multiplications for {images} images", images * multiplications, most, " of a file of this size"),
    ):
        if needed > limit:
            raise TraceError(f"{loaded.path}: {needed} {what}; a gradient is recomputed with at most {limit}{why}")
