"""What may have gone into a formula instead of what the record says: mistakes that leave the formula itself alone."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np

from crosscheck.rules.inputs import Inputs
from crosscheck.rules.rule import Flags, Rule
from crosscheck.trace.format import AVERAGE, GRAD

Suspect = tuple[str, Flags, Inputs]
"""A sentence, and the flags and inputs with which the formula would make what was recorded, were it true."""


def suspects(rule: Rule, flags: Flags, inputs: Inputs) -> Iterator[Suspect]:
    """Every mistake of this kind that the inputs leave room for."""
    of_moved = {GRAD: _of_gradients, AVERAGE: _of_averages}
    if rule.moved in of_moved:
        yield from of_moved[rule.moved](flags, inputs)
    else:
        yield from _of_steps(rule, flags, inputs)


def _with_numbers(inputs: Inputs, **new: Any) -> Inputs:
    """With other hyperparameters."""
    return inputs._replace(hyperparameters={**inputs.hyperparameters, **new})


def _of_gradients(flags: Flags, inputs: Inputs) -> Iterator[Suspect]:
    h = dict(inputs.hyperparameters)
    scale, world, unclipped = h["loss_scale"], h["world_size"], Flags("plain", "none")
    norm = h.get("norm", np.ones_like(scale))

    instead = partial(_with_numbers, inputs)
    if (scale != 1).any():
        yield "the gradient is divided by the loss scale twice", flags, instead(loss_scale=scale**2, norm=norm / scale)
        yield (
            "the gradient is not divided by the loss scale",
            flags,
            instead(loss_scale=np.ones_like(scale), norm=norm * scale),
        )
    if (world != 1).any():
        averaged, summed = scale * world, scale / world
        yield "the gradient is divided by the world size twice", flags, instead(loss_scale=averaged, norm=norm / world)
        yield "the gradient is multiplied by the world size", flags, instead(loss_scale=summed, norm=norm * world)
    if flags.variant != "plain":
        yield "the gradient is not clipped (or only after the step)", unclipped, inputs
    if flags.variant == "norm":
        limit, eps = h["clip_norm"], h["norm_eps"]
        yield "the 1e-6 that torch adds to the norm is missing", flags, instead(norm_eps=np.zeros_like(eps))
        if (scale != 1).any():
            yield "the gradient is clipped before it is divided by the loss scale", flags, instead(norm=norm * scale)
        factor = np.minimum(1.0, limit / (norm + eps))
        again = np.minimum(1.0, limit / (norm * factor + eps))
        yield "the gradient is clipped twice", flags, instead(clip_norm=factor * again * (norm + eps))
        yield "the clipping factor is applied twice", flags, instead(clip_norm=factor**2 * (norm + eps))
    if flags.variant == "value" and (scale != 1).any():
        limit = h["clip_value"] / scale
        yield "the gradient is clipped before it is divided by the loss scale", flags, instead(clip_value=limit)


def _of_averages(flags: Flags, inputs: Inputs) -> Iterator[Suspect]:
    decay, seen = inputs.hyperparameters["decay"], inputs.hyperparameters["seen"]
    late = inputs._replace(values={**inputs.values, GRAD: inputs.values["previous"]})
    still = _with_numbers(inputs, decay=np.ones_like(decay), seen=np.ones_like(seen))
    yield "it takes in the parameters of the step before: it is one step late", flags, late
    yield "it was not updated", flags, still
    yield "decay and 1 - decay are swapped", flags, _with_numbers(inputs, decay=1 - decay)
    if (seen == 0).any():
        started = _with_numbers(inputs, seen=np.ones_like(seen))
        yield "the first update averages with the initial parameters instead of copying", flags, started
    else:
        copied = _with_numbers(inputs, seen=np.zeros_like(seen))
        yield "it is a copy of the parameters", flags, copied


def _of_steps(rule: Rule, flags: Flags, inputs: Inputs) -> Iterator[Suspect]:
    h, grad = dict(inputs.hyperparameters), inputs.values["grad"]
    scale = h["loss_scale"][:, None]

    def with_grad(new: Any) -> Inputs:
        return inputs._replace(values={**inputs.values, "grad": new})

    def with_buffer(factor: Any) -> Inputs:
        if "momentum_buffer" not in inputs.values:
            return inputs
        buffer = inputs.values["momentum_buffer"] * factor[:, None]
        return inputs._replace(values={**inputs.values, "momentum_buffer": buffer})

    with_numbers = partial(_with_numbers, inputs)
    tried: list[tuple[str, bool, Flags, Inputs]] = [
        ("the gradient is used with the wrong sign (maximize)", True, flags, with_numbers(sign=-h["sign"])),
        ("the gradient is divided by the loss scale twice", bool((scale != 1).any()), flags, with_grad(grad / scale)),
        ("the gradient is not divided by the loss scale", bool((scale != 1).any()), flags, with_grad(grad * scale)),
        (
            "the learning rate is inside the momentum buffer",
            "momentum_buffer" in inputs.values and bool((h["lr"] != h["last_lr"]).any() and (h["lr"] != 0).all()),
            flags,
            with_buffer(h["last_lr"] / np.where(h["lr"] == 0, 1.0, h["lr"])),
        ),
        ("lr is that of the step before", bool((h["lr"] != h["last_lr"]).any()), flags, with_numbers(lr=h["last_lr"])),
    ]
    if flags.decay != "none":
        off = Flags(flags.variant, "none")
        tried.append(("weight decay is missing", True, off, inputs))
        times_lr = with_numbers(weight_decay=h["weight_decay"] * h["lr"])
        tried.append(("weight decay is multiplied by lr once too often", True, flags, times_lr))
        if rule.counts:
            other = "coupled" if flags.decay == "decoupled" else "decoupled"
            tried.append(
                (f"weight decay is {other} instead of {flags.decay}", True, Flags(flags.variant, other), inputs)
            )
    if flags.variant in ("momentum", "nesterov"):
        other, what = (
            ("nesterov", "is there, though not asked for")
            if flags.variant == "momentum"
            else ("momentum", "is missing")
        )
        tried.append((f"Nesterov's look-ahead {what}", True, Flags(other, flags.decay), inputs))
        started = inputs._replace(first=np.zeros_like(inputs.first))
        dampened = bool((h["dampening"] != 0).any() and inputs.first.any())
        tried.append(("dampening is applied to the first gradient, which starts the buffer", dampened, flags, started))
    if rule.counts:
        tried.append(("betas are swapped", True, flags, with_numbers(beta1=h["beta2"], beta2=h["beta1"])))
        ahead, behind = inputs._replace(count=inputs.count + 1), inputs._replace(count=np.maximum(inputs.count - 1, 0))
        tried.append(("bias corrections are one step ahead", True, flags, ahead))
        tried.append(("bias corrections are one step behind", bool((inputs.count > 0).all()), flags, behind))
    for sentence, possible, its_flags, its_inputs in tried:
        if possible:
            yield sentence, its_flags, its_inputs
