"""Lists what is often taken for torch's Adam, and what may go into it instead of what the record says."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from typing import Any

import jax.numpy as jnp
import optax

from crosscheck.diagnosis.mistake import (
    DECAY_CONSTANT,
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
    with_numbers,
    wrong_decay,
    wrong_gradient,
)
from crosscheck.rules import own
from crosscheck.rules.adam import AdamFlags, adam_around, adam_moments
from crosscheck.rules.inputs import Inputs
from crosscheck.rules.rule import Hyperparameters


def _without_decay(flags: AdamFlags) -> AdamFlags:
    return replace(flags, decay="none")


def _wrong_inputs(flags: AdamFlags, inputs: Inputs) -> Iterator[WrongInputs]:
    h, steps = inputs.hyperparameters, inputs.counts["step"]
    yield from wrong_gradient(flags, inputs)
    yield from late_rate(flags, inputs)
    yield from rounded_numbers(flags, inputs, ("lr", "beta1", "beta2", "eps", "weight_decay"))
    if flags.decay != "none":
        yield from wrong_decay(flags, _without_decay(flags), inputs, decoupled=flags.decay == "decoupled")
        other = "coupled" if flags.decay == "decoupled" else "decoupled"
        yield WrongInputs(f"weight decay is {other} instead of {flags.decay}", replace(flags, decay=other), inputs)
    if h["eps"].any():
        yield WrongInputs("eps is without effect", flags, with_numbers(inputs, eps=0.0 * h["eps"]))
    swapped = with_numbers(inputs, beta1=h["beta2"], beta2=h["beta1"])
    yield WrongInputs("betas are swapped", flags, swapped)
    ahead = replace(inputs, counts={"step": steps + 1})
    yield WrongInputs("bias corrections are one step ahead", flags, ahead)
    if (steps > 0).all():
        behind = replace(inputs, counts={"step": steps - 1})
        yield WrongInputs("bias corrections are one step behind", flags, behind)


Moments = Callable[[AdamFlags, Hyperparameters], optax.GradientTransformation]
Around = Callable[[optax.GradientTransformation, AdamFlags, Hyperparameters], optax.GradientTransformation]


def _eps_inside(flags: AdamFlags, h: Hyperparameters) -> optax.GradientTransformation:
    del flags
    return optax.scale_by_adam(h["beta1"], h["beta2"], eps=0.0, eps_root=h["eps"])


def _amsgrad_corrected_first(flags: AdamFlags, h: Hyperparameters) -> optax.GradientTransformation:
    del flags
    return optax.scale_by_amsgrad(h["beta1"], h["beta2"], h["eps"])


def _amsgrad_unused(flags: AdamFlags, h: Hyperparameters) -> optax.GradientTransformation:
    """Keep the maximum, and divide as plain Adam does."""
    del flags
    kept = own.scale_by_torch_amsgrad(h["beta1"], h["beta2"], h["eps"])
    plain = optax.scale_by_adam(h["beta1"], h["beta2"], h["eps"])

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        used, _ = plain.update(updates, optax.ScaleByAdamState(state.count, state.mu, state.nu), params)
        return used, kept.update(updates, state, params)[1]

    return optax.GradientTransformation(kept.init, update)


def _correction(*, first: bool = True, second: bool = True, eps_early: bool = False) -> Moments:
    """Take Optax's moments without their corrections, and make only some of these.

    `eps_early`: eps is added before the second moment is corrected.
    """

    def moments(flags: AdamFlags, h: Hyperparameters) -> optax.GradientTransformation:
        def at(count: Any) -> tuple[optax.GradientTransformation, Any]:
            root = jnp.sqrt((1.0 - h["beta2"] ** count) * h.get(SECOND, 1.0)) if second else jnp.ones(())
            eps = h["eps"] if eps_early else h["eps"] * root
            unbias = (1.0 - h["beta1"] ** count) * h.get(FIRST, 1.0) if first else 1.0
            if flags.amsgrad:
                bare = optax.scale_by_amsgrad(
                    h["beta1"], h["beta2"], eps, bias_correction_mu=False, bias_correction_nu=False
                )
            else:
                bare = _uncorrected(h["beta1"], h["beta2"], eps)
            return bare, root / unbias

        return own.by_count(at)

    return moments


def _uncorrected(b1: Any, b2: Any, eps: Any) -> optax.GradientTransformation:
    """Return m / (sqrt(v) + eps), of arrays."""

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        del params
        mu = optax.tree.update_moment(updates, state.mu, b1, 1)
        nu = optax.tree.update_moment(updates, state.nu, b2, 2)
        return mu / (jnp.sqrt(nu) + eps), optax.ScaleByAdamState(state.count + 1, mu, nu)

    return optax.GradientTransformation(optax.scale_by_adam().init, update)  # pyright: ignore[reportArgumentType]


def _decay_without_lr(
    moments: optax.GradientTransformation, flags: AdamFlags, h: Hyperparameters
) -> optax.GradientTransformation:
    return adam_around(moments, flags, {**h, "weight_decay": h["weight_decay"] / h["lr"]})


def _decay_of_new(
    moments: optax.GradientTransformation, flags: AdamFlags, h: Hyperparameters
) -> optax.GradientTransformation:
    bare = adam_around(moments, _without_decay(flags), h)
    return and_then(bare, lambda new: -h["lr"] * h["weight_decay"] * new)


def _decay_before_and_after(
    moments: optax.GradientTransformation, flags: AdamFlags, h: Hyperparameters
) -> optax.GradientTransformation:
    return and_then(adam_around(moments, flags, h), lambda new: -h["lr"] * h["weight_decay"] * new)


def _constant_in_gradient(
    moments: optax.GradientTransformation, flags: AdamFlags, h: Hyperparameters
) -> optax.GradientTransformation:
    return adam_around(optax.chain(add_constant(h["weight_decay"]), moments), _without_decay(flags), h)


def _constant_beside(
    moments: optax.GradientTransformation, flags: AdamFlags, h: Hyperparameters
) -> optax.GradientTransformation:
    return adam_around(optax.chain(moments, add_constant(h["weight_decay"])), _without_decay(flags), h)


@cache
def _chain(moments: Moments, around: Around) -> Chain:
    """Return the formula of both, the same object each time, so that what is compiled for it serves again."""

    def chain(flags: AdamFlags, h: Hyperparameters) -> optax.GradientTransformation:
        return around(moments(flags, h), flags, h)

    return chain


FIRST, SECOND = "first_correction", "second_correction"
WITH_CORRECTIONS: Chain = _chain(_correction(), adam_around)
"""The right formula, with `FIRST` and `SECOND` among its hyperparameters: factors on the two corrections."""
_EPS_INSIDE = ("eps is inside the square root", _eps_inside)
_MOMENTS: tuple[tuple[str, Moments], ...] = (
    (
        "eps is added before the bias correction of the second moment (as TensorFlow does)",
        _correction(eps_early=True),
    ),
    ("the bias correction of the first moment is missing", _correction(first=False)),
    ("the bias correction of the second moment is missing", _correction(second=False)),
    ("both bias corrections are missing", _correction(first=False, second=False)),
)
_AMSGRAD: tuple[tuple[str, Moments], ...] = (
    ("AMSGrad's maximum is kept but not used", _amsgrad_unused),
    ("AMSGrad corrects the bias before it takes the maximum (as Optax does)", _amsgrad_corrected_first),
)
_DECAYS: tuple[tuple[str, Around], ...] = (
    ("weight decay is not multiplied by lr", _decay_without_lr),
    (DECAY_NEW, _decay_of_new),
    (DECAY_TWICE, _decay_before_and_after),
)


def _wrong_moments(flags: AdamFlags) -> tuple[tuple[str, Moments], ...]:
    return (*_MOMENTS, *(_AMSGRAD if flags.amsgrad else (_EPS_INSIDE,)))


def _wrong_decays(flags: AdamFlags) -> tuple[tuple[str, Around], ...]:
    beside, in_gradient = (DECAY_CONSTANT, _constant_beside), (DECAY_CONSTANT, _constant_in_gradient)
    return {"none": (), "coupled": (in_gradient, beside), "decoupled": (*_DECAYS, beside)}[flags.decay]


def _wrong_formulas(flags: AdamFlags) -> Iterator[WrongFormula]:
    yield from still(_chain(adam_moments, adam_around))
    yield from ((sentence, _chain(moments, adam_around)) for sentence, moments in _wrong_moments(flags))
    yield from ((sentence, _chain(adam_moments, around)) for sentence, around in _wrong_decays(flags))


def _pairs(flags: AdamFlags) -> Iterator[WrongFormula]:
    for first, around in _wrong_decays(flags):
        for second, moments in _wrong_moments(flags):
            yield f"{first}, and {second}", _chain(moments, around)


def _decays(flags: AdamFlags) -> Iterator[tuple[str, AdamFlags]]:
    if flags.decay == "none":
        yield "decoupled ", replace(flags, decay="decoupled")
        yield "coupled ", replace(flags, decay="coupled")


OF_ADAM = Mistakes(_wrong_inputs, _wrong_formulas, _decays, _pairs)
