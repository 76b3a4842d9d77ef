"""Lists what is often taken for torch's SGD, and what may go into it instead of what the record says."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import optax

from crosscheck.diagnosis.mistake import (
    DECAY_CONSTANT,
    DECAY_LATE,
    DECAY_NEW,
    DECAY_TWICE,
    Chain,
    Mistakes,
    WrongFormula,
    WrongInputs,
    add_constant,
    and_then,
    late_rate,
    rounded_numbers,
    still,
    with_values,
    wrong_decay,
    wrong_gradient,
)
from crosscheck.rules import own
from crosscheck.rules.inputs import Inputs
from crosscheck.rules.rule import Hyperparameters
from crosscheck.rules.sgd import SGDFlags, sgd_momentum, signed_decay

LOOK_AHEAD_MISSING = "Nesterov's look-ahead is missing"
LOOK_AHEAD_UNASKED = "Nesterov's look-ahead is there, though not asked for"


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
    yield from rounded_numbers(flags, inputs, ("lr", "momentum", "dampening", "weight_decay"))
    if flags.decay:
        # Without momentum, decay of the parameter beside the step is decay of the gradient.
        yield from wrong_decay(flags, _without_decay(flags), inputs, decoupled=not flags.momentum)
    if not flags.momentum:
        return
    what = LOOK_AHEAD_MISSING if flags.nesterov else LOOK_AHEAD_UNASKED
    yield WrongInputs(what, replace(flags, nesterov=not flags.nesterov), inputs)
    absent = inputs.absent["momentum_buffer"]
    if (h["dampening"] != 0).any() and absent.any():
        started = replace(inputs, absent={"momentum_buffer": np.zeros_like(absent)})
        yield WrongInputs("dampening is applied to the first gradient, which starts the buffer", flags, started)


Velocity = Callable[[SGDFlags, Hyperparameters], optax.GradientTransformation]
Decay = Callable[[Velocity, SGDFlags, Hyperparameters], optax.GradientTransformation]


def _momentum(flags: SGDFlags, h: Hyperparameters) -> optax.GradientTransformation:
    return optax.chain(*sgd_momentum(flags, h), optax.scale_by_learning_rate(h["lr"]))


def _look_ahead_undamped(flags: SGDFlags, h: Hyperparameters) -> optax.GradientTransformation:
    """Return g + mu b with the whole gradient, of which dampening takes a part only on its way into the buffer."""
    del flags
    buffer = optax.chain(own.dampen(h["dampening"]), optax.trace(h["momentum"]))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        kept: Any
        kept, state = buffer.update(updates, state, params)
        return updates + h["momentum"] * kept, state

    return optax.chain(optax.GradientTransformation(buffer.init, update), optax.scale_by_learning_rate(h["lr"]))


def _rate_inside(sign: float) -> Velocity:
    """Return what keeps the rate, with a sign, in the buffer itself: v <- mu v + sign lr g; p <- p - sign v."""

    def velocity(flags: SGDFlags, h: Hyperparameters) -> optax.GradientTransformation:
        return optax.chain(optax.scale(sign * h["lr"]), *sgd_momentum(flags, h), optax.scale(-sign))

    return velocity


def _decay(velocity: Velocity, flags: SGDFlags, h: Hyperparameters) -> optax.GradientTransformation:
    return optax.chain(*signed_decay(flags, h), velocity(flags, h))


def _decay_late(velocity: Velocity, flags: SGDFlags, h: Hyperparameters) -> optax.GradientTransformation:
    bare = _decay(velocity, _without_decay(flags), h)

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        updates, state = bare.update(updates, state, params)
        return updates - h["lr"] * h["weight_decay"] * params, state

    return optax.GradientTransformation(bare.init, update)


def _decay_of_new(velocity: Velocity, flags: SGDFlags, h: Hyperparameters) -> optax.GradientTransformation:
    return and_then(_decay(velocity, _without_decay(flags), h), lambda new: -h["lr"] * h["weight_decay"] * new)


def _decay_before_and_after(velocity: Velocity, flags: SGDFlags, h: Hyperparameters) -> optax.GradientTransformation:
    return and_then(_decay(velocity, flags, h), lambda new: -h["lr"] * h["weight_decay"] * new)


def _constant_in_gradient(velocity: Velocity, flags: SGDFlags, h: Hyperparameters) -> optax.GradientTransformation:
    return optax.chain(optax.scale(h["sign"]), add_constant(h["weight_decay"]), velocity(flags, h))


def _constant_beside(velocity: Velocity, flags: SGDFlags, h: Hyperparameters) -> optax.GradientTransformation:
    return optax.chain(_decay(velocity, _without_decay(flags), h), add_constant(-h["lr"] * h["weight_decay"]))


@cache
def _chain(velocity: Velocity, decay: Decay) -> Chain:
    """Return the formula of both, the same object each time, so that what is compiled for it serves again."""

    def chain(flags: SGDFlags, h: Hyperparameters) -> optax.GradientTransformation:
        return decay(velocity, flags, h)

    return chain


_VELOCITIES: tuple[tuple[str, Velocity], ...] = (
    ("the learning rate is inside the momentum buffer", _rate_inside(1.0)),
    ("the momentum buffer is a negative velocity with the learning rate inside (as in Keras)", _rate_inside(-1.0)),
)
_DECAYS: tuple[tuple[str, Decay], ...] = (
    (DECAY_LATE, _decay_late),
    (DECAY_NEW, _decay_of_new),
    (DECAY_TWICE, _decay_before_and_after),
    (DECAY_CONSTANT, _constant_in_gradient),
    (DECAY_CONSTANT, _constant_beside),
)


def _wrong_formulas(flags: SGDFlags) -> Iterator[WrongFormula]:
    yield from still(_chain(_momentum, _decay))
    if flags.decay:
        yield from ((sentence, _chain(_momentum, decay)) for sentence, decay in _DECAYS)
    if flags.momentum:
        unasked = () if flags.nesterov else ((LOOK_AHEAD_UNASKED, _look_ahead_undamped),)
        yield from ((sentence, _chain(velocity, _decay)) for sentence, velocity in (*_VELOCITIES, *unasked))


def _pairs(flags: SGDFlags) -> Iterator[WrongFormula]:
    if flags.decay and flags.momentum:
        for (first, velocity), (second, decay) in ((v, d) for v in _VELOCITIES for d in _DECAYS):
            yield f"{first}, and {second}", _chain(velocity, decay)


def _decays(flags: SGDFlags) -> Iterator[tuple[str, SGDFlags]]:
    if not flags.decay:
        yield "", replace(flags, decay=True)


OF_SGD = Mistakes(_wrong_inputs, _wrong_formulas, _decays, _pairs)
