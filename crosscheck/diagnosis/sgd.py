"""What is often taken for torch's SGD, and what may go into it instead of what the record says."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import optax

from crosscheck.diagnosis.mistake import (
    Mistakes,
    WrongFormula,
    WrongInputs,
    decay_of_new_parameters,
    late_rate,
    with_values,
    wrong_decay,
    wrong_gradient,
)
from crosscheck.rules import own
from crosscheck.rules.inputs import Inputs
from crosscheck.rules.rule import Hyperparameters
from crosscheck.rules.sgd import SGDFlags, sgd


def _without_decay(flags: SGDFlags) -> SGDFlags:
    return replace(flags, decay=False)


def _wrong_inputs(flags: SGDFlags, inputs: Inputs) -> Iterator[WrongInputs]:
    h = inputs.hyperparameters
    yield from wrong_gradient(flags, inputs)
    if flags.momentum and (h["lr"] != h["last_lr"]).any() and (h["lr"] != 0).all():
        buffer = inputs.values["momentum_buffer"] * (h["last_lr"] / h["lr"])[:, None]
        inside = with_values(inputs, momentum_buffer=buffer)
        yield WrongInputs("the learning rate is inside the momentum buffer", flags, inside)
    yield from late_rate(flags, inputs)
    if flags.decay:
        yield from wrong_decay(flags, _without_decay(flags), inputs)
    if not flags.momentum:
        return
    what = "is missing" if flags.nesterov else "is there, though not asked for"
    yield WrongInputs(f"Nesterov's look-ahead {what}", replace(flags, nesterov=not flags.nesterov), inputs)
    absent = inputs.absent["momentum_buffer"]
    if (h["dampening"] != 0).any() and absent.any():
        started = replace(inputs, absent={"momentum_buffer": np.zeros_like(absent)})
        yield WrongInputs("dampening is applied to the first gradient, which starts the buffer", flags, started)


def _decay_late(flags: SGDFlags, h: Hyperparameters) -> optax.GradientTransformation:
    momentum = [own.dampen(h["dampening"]), optax.trace(h["momentum"], nesterov=flags.nesterov)]
    return optax.chain(
        optax.scale(h["sign"]),
        *(momentum if flags.momentum else []),
        optax.add_decayed_weights(h["weight_decay"]),
        optax.scale_by_learning_rate(h["lr"]),
    )


def _lr_inside(flags: SGDFlags, h: Hyperparameters) -> optax.GradientTransformation:
    return optax.chain(
        optax.scale(h["sign"]),
        optax.add_decayed_weights(h["weight_decay"]),
        optax.scale(h["lr"]),
        own.dampen(h["dampening"]),
        optax.trace(h["momentum"], nesterov=flags.nesterov),
        optax.scale(-1.0),
    )


_decay_of_new_parameters = decay_of_new_parameters(sgd, _without_decay)


def _wrong_formulas(flags: SGDFlags) -> Iterator[WrongFormula]:
    if flags.decay:
        yield "weight decay is added after the momentum instead of to the gradient", _decay_late
        yield "weight decay is taken from the new parameters", _decay_of_new_parameters
    if flags.momentum:
        yield "the learning rate is inside the momentum buffer", _lr_inside


OF_SGD = Mistakes(_wrong_inputs, _wrong_formulas)
