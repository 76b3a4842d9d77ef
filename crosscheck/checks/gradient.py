"""Is the gradient that backward left that of the whole global batch, recomputed by the same network in JAX?"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np

from crosscheck.checks.check import Check
from crosscheck.criterion.stochastic import GradientComparison, compare_gradients
from crosscheck.errors import TraceError
from crosscheck.report import check_names
from crosscheck.report.finding import Finding
from crosscheck.trace.format import GRAD, Pass
from crosscheck.trace.reader import LoadedPass
from crosscheck.twin.network_inputs import NetworkInputs
from crosscheck.twin.passes import inputs_of
from crosscheck.twin.pooling import WRONG
from crosscheck.twin.recompute import Twin, recompute


class Gradient(Check):
    """Recomputes the gradient of each recorded pass."""

    def start(self) -> None:
        self._first: tuple[Path, dict[str, tuple[int, ...]]] | None = None  # a pass, and the shapes in it

    def finish(self) -> None:
        for loaded in self.segment.passes():
            self.answered = True
            self._check_pass(loaded)

    def _check_pass(self, loaded: LoadedPass) -> None:
        """Recompute the gradient of one pass. Raises TraceError for a pass that no twin can take."""
        described = loaded.described
        inputs, recorded = inputs_of(loaded)
        self._expect_same_network(loaded, inputs)
        with np.errstate(over="ignore", invalid="ignore"):
            gradients = {name: value.astype(np.float64) / described.loss_scale for name, value in recorded.items()}
        twin = recompute(inputs)
        comparison = compare_gradients(twin.tensors, gradients)
        flips = sum(pooling.flips for pooling in twin.poolings)
        self.context.notes.append(
            f"gradient of step {described.step}: {len(inputs.labels)} images, {flips} of "
            f"{sum(pooling.windows for pooling in twin.poolings):,} pooling windows decided otherwise in float64 (near-ties); "
            f"{comparison.power:.2g} of the gradient, missing or too much, would have shown"
        )
        self.context.findings.add(_findings(described, comparison, twin))

    def _expect_same_network(self, loaded: LoadedPass, inputs: NetworkInputs) -> None:
        """Raises TraceError for a pass of other shapes than the first: each would be compiled anew, which takes seconds."""
        shapes = {name: value.shape for name, value in inputs.parameters.items()} | {"images": inputs.images.shape[1:]}
        first = next((check._first for check in self.earlier if check._first is not None), self._first)
        self._first = first or (loaded.path, shapes)
        path, others = self._first
        other = next((name for name, shape in shapes.items() if shape != others[name]), None)
        if other is not None:
            raise TraceError(
                f"{loaded.path}: {other} is {shapes[other]} and was {others[other]} in {path.name}: a run has one network"
            )


def _findings(described: Pass, comparison: GradientComparison, twin: Twin) -> Iterator[Finding]:
    finding = partial(Finding, step=described.step, slot=GRAD, check=check_names.GRADIENT)
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
                cause=(
                    f"{pooling.wrong} winners of max-pooling {pooling.name} are no near-ties: they are not the largest of their "
                    f"windows (worst by {pooling.gap:.3g}, over {WRONG:g})"
                ),
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
