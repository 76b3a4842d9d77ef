"""Is the gradient that backward left that of the whole global batch, recomputed by the same network in JAX?"""

from collections.abc import Iterator
from functools import partial

import numpy as np

from crosscheck.checks.check import Check
from crosscheck.criterion.stochastic import GradientComparison, compare_gradients
from crosscheck.errors import TraceError
from crosscheck.report.report import Finding
from crosscheck.trace.format import GRAD, Pass
from crosscheck.trace.reader import LoadedPass
from crosscheck.twin.network import CONVOLUTIONS, LINEAR, POOLINGS
from crosscheck.twin.network_inputs import NetworkInputs
from crosscheck.twin.pooling import WRONG
from crosscheck.twin.recompute import Twin, recompute

_SHAPES: dict[str, tuple[int | None, ...]] = {
    **{f"{name}.weight": (None, None, 5, 5) for name in CONVOLUTIONS},
    **{f"{name}.weight": (None, None) for name in LINEAR},
    **{f"{name}.bias": (None,) for name in (*CONVOLUTIONS, *LINEAR)},
}


class Backward(Check):
    """Recomputes the gradient of each recorded pass."""

    def finish(self) -> None:
        for loaded in self.segment.passes():
            self.answered = True
            self._check_pass(loaded)

    def _check_pass(self, loaded: LoadedPass) -> None:
        """Recompute the gradient of one pass. Raises TraceError for a pass that no twin can take."""
        described = loaded.described
        if described.network != "article":
            raise TraceError(
                f"{loaded.path}: there is no twin of the network {described.network!r}; there is one of 'article'"
            )
        inputs = _inputs_of(loaded)
        gradients = {
            name: np.asarray(loaded.arrays[f"gradient/{name}"], np.float64) / described.loss_scale
            for name in inputs.parameters
        }
        twin = recompute(inputs)
        comparison = compare_gradients(twin.tensors, gradients)
        flips = sum(pooling.flips for pooling in twin.poolings)
        self.context.notes.append(
            f"gradient of step {described.step}: {len(inputs.labels)} images, {flips} of "
            f"{sum(pooling.windows for pooling in twin.poolings):,} pooling windows decided otherwise in float64 (near-ties); "
            f"{comparison.power:.2g} of the gradient, missing or too much, would have shown"
        )
        self.context.findings.add(_findings(described, comparison, twin))


def _inputs_of(loaded: LoadedPass) -> NetworkInputs:
    described = loaded.described
    images = loaded.array("images", "uint8", (None, None, None, None))
    size, height, width, channels = images.shape
    if not size or height != width or height % 8 or len(described.mean) != channels or len(described.std) != channels:
        raise TraceError(f"{loaded.path}: images of shape {images.shape} are not what the network takes")
    if not described.loss_scale > 0 or not all(std > 0 for std in described.std):
        raise TraceError(f"{loaded.path}: loss_scale and std are to be positive")
    parameters = {name: loaded.array(f"parameter/{name}", "float32", shape) for name, shape in _SHAPES.items()}
    for name, parameter in parameters.items():
        loaded.array(f"gradient/{name}", "float32", parameter.shape)
    _expect_layers(loaded, parameters, channels, height)
    labels = loaded.array("labels", "int64", (size,))
    if labels.min() < 0 or labels.max() >= len(parameters[f"{LINEAR[-1]}.bias"]):
        raise TraceError(f"{loaded.path}: labels are not classes of the network")
    outputs = [len(parameters[f"{name}.bias"]) for name in CONVOLUTIONS]
    winners = tuple(
        loaded.array(f"winners/{k}", "uint8", (size, outputs[k], height >> (k + 1), width >> (k + 1)))
        for k in range(len(POOLINGS))
    )
    if any(won.max() > 3 for won in winners):
        raise TraceError(f"{loaded.path}: winners are numbers from 0 to 3")
    return NetworkInputs(
        images=images,
        labels=labels,
        parameters=parameters,
        mean=np.array(described.mean),
        std=np.array(described.std),
        label_smoothing=described.label_smoothing,
        winners=winners,
        compute=described.compute,
        loss_scale=described.loss_scale * described.world_size,  # DDP divides the sum over the ranks
    )


def _expect_layers(loaded: LoadedPass, parameters: dict[str, np.ndarray], channels: int, size: int) -> None:
    """Check that each layer takes what the one before gives. Raises TraceError."""
    inputs = channels
    for name in (*CONVOLUTIONS, *LINEAR):
        weight, bias = parameters[f"{name}.weight"], parameters[f"{name}.bias"]
        if name == LINEAR[0]:
            inputs *= (size >> len(CONVOLUTIONS)) ** 2
        if weight.shape[1] != inputs or weight.shape[0] != len(bias):
            raise TraceError(f"{loaded.path}: {name}.weight is {weight.shape}, which does not follow the layer before")
        inputs = len(bias)


def _findings(described: Pass, comparison: GradientComparison, twin: Twin) -> Iterator[Finding]:
    finding = partial(Finding, step=described.step, slot=GRAD, check="backward")
    cause = _cause(described, comparison)
    for name, found in comparison.tensors.items():
        if found.wrong:
            yield finding(
                tensor=name,
                index=found.index,
                recorded=found.recorded,
                expected=found.expected,
                eta=found.eta,
                cause=f"the gradient is not that of the global batch on record: {cause}",
                elements=max(1, found.over),
            )
    for pooling in twin.poolings:
        if pooling.wrong:
            yield finding(
                tensor=pooling.name,
                cause=f"{pooling.wrong} winners of max-pooling {pooling.name} are no near-ties: they are not the largest of their windows (worst by {pooling.gap:.3g}, over {WRONG:g})",
            )
    if not described.training:
        yield finding(tensor="the network", cause="the network was in evaluation mode while it was trained")


def _cause(described: Pass, comparison: GradientComparison) -> str:
    """Return what explains the difference: a factor if all tensors have the same one, otherwise another mixture of images."""
    world, parts, scale = float(described.world_size), float(described.accumulate), described.loss_scale
    known = [
        (world, world, "summed over the ranks instead of averaged"),
        (1 / world, world, "divided by the world size once too often"),
        (parts, parts, "not divided by the number of accumulated parts"),
        (1 / parts, parts, "divided by the number of accumulated parts once too often"),
        (scale, scale, "not divided by the loss scale"),
        (1 / scale, scale, "divided by the loss scale once too often"),
        (-1.0, 0.0, "of the opposite sign"),
    ]
    names = [why for factor, of, why in known if of != 1 and abs(comparison.scale / factor - 1) < 1e-2]
    if names:
        return f"it is {comparison.scale:.4g} times that, {' or '.join(names)}"
    worst = max(found.relative for found in comparison.tensors.values())
    return (
        f"it differs by up to {worst:.1%} of its size and is no multiple of it: other images or labels, other weights of "
        "images (a mean of unequal means, a rank or part missing or twice), or another normalisation"
    )
