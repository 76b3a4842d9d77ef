"""What may happen to a gradient between backward and the optimizer, other than what is claimed."""

from collections.abc import Iterator
from functools import partial

import numpy as np

from crosscheck.diagnosis.mistake import Mistakes, WrongInputs, with_numbers
from crosscheck.rules.clipping import ClipFlags
from crosscheck.rules.inputs import Inputs


def _wrong_inputs(flags: ClipFlags, inputs: Inputs) -> Iterator[WrongInputs]:
    h = dict(inputs.hyperparameters)
    scale, world = h["loss_scale"], h["world_size"]
    norm = h.get("norm", np.ones_like(scale))
    instead = partial(with_numbers, inputs)
    if (scale != 1).any():
        twice = instead(loss_scale=scale**2, norm=norm / scale)
        never = instead(loss_scale=np.ones_like(scale), norm=norm * scale)
        yield WrongInputs("the gradient is divided by the loss scale twice", flags, twice)
        yield WrongInputs(
            "the gradient is not divided by the loss scale (or after_backward came after that)", flags, never
        )
    if (world != 1).any():
        twice = instead(loss_scale=scale * world, norm=norm / world)
        never = instead(loss_scale=scale / world, norm=norm * world)
        yield WrongInputs("the gradient is divided by the world size twice", flags, twice)
        yield WrongInputs("the gradient is multiplied by the world size", flags, never)
    if flags.by != "nothing":
        yield WrongInputs("the gradient is not clipped (or only after the step)", ClipFlags(), inputs)
    if flags.by == "norm":
        limit, eps = h["clip_norm"], h["norm_eps"]
        exact = instead(norm_eps=np.zeros_like(eps))
        yield WrongInputs("the 1e-6 that torch adds to the norm is missing", flags, exact)
        if (scale != 1).any():
            early = instead(norm=norm * scale)
            yield WrongInputs("the gradient is clipped before it is divided by the loss scale", flags, early)
        factor = np.minimum(1.0, limit / (norm + eps))
        again = np.minimum(1.0, limit / (norm * factor + eps))
        yield WrongInputs("the gradient is clipped twice", flags, instead(clip_norm=factor * again * (norm + eps)))
        squared = instead(clip_norm=factor**2 * (norm + eps))
        yield WrongInputs("the clipping factor is applied twice", flags, squared)
    if flags.by == "value" and (scale != 1).any():
        early = instead(clip_value=h["clip_value"] / scale)
        yield WrongInputs("the gradient is clipped before it is divided by the loss scale", flags, early)


OF_CLIPPING = Mistakes(_wrong_inputs)
