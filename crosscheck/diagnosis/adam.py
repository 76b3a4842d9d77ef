"""What is often taken for torch's Adam, and what may go into it instead of what the record says."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import jax.numpy as jnp
import optax

from crosscheck.diagnosis.mistake import (
    Chain,
    Mistakes,
    WrongFormula,
    WrongInputs,
    decay_of_new_parameters,
    late_rate,
    with_numbers,
    wrong_decay,
    wrong_gradient,
)
from crosscheck.rules import own
from crosscheck.rules.adam import AdamFlags, adam, adam_around
from crosscheck.rules.inputs import Inputs
from crosscheck.rules.rule import Hyperparameters


def _without_decay(flags: AdamFlags) -> AdamFlags:
    return replace(flags, decay="none")


def _wrong_inputs(flags: AdamFlags, inputs: Inputs) -> Iterator[WrongInputs]:
    h, steps = inputs.hyperparameters, inputs.counts["step"]
    yield from wrong_gradient(flags, inputs)
    yield from late_rate(flags, inputs)
    if flags.decay != "none":
        yield from wrong_decay(flags, _without_decay(flags), inputs)
        other = "coupled" if flags.decay == "decoupled" else "decoupled"
        yield WrongInputs(f"weight decay is {other} instead of {flags.decay}", replace(flags, decay=other), inputs)
    swapped = with_numbers(inputs, beta1=h["beta2"], beta2=h["beta1"])
    yield WrongInputs("betas are swapped", flags, swapped)
    ahead = replace(inputs, counts={"step": steps + 1})
    yield WrongInputs("bias corrections are one step ahead", flags, ahead)
    if (steps > 0).all():
        behind = replace(inputs, counts={"step": steps - 1})
        yield WrongInputs("bias corrections are one step behind", flags, behind)


def _eps_inside(flags: AdamFlags, h: Hyperparameters) -> optax.GradientTransformation:
    return adam_around(optax.scale_by_adam(h["beta1"], h["beta2"], eps=0.0, eps_root=h["eps"]), flags, h)


def _decay_without_lr(flags: AdamFlags, h: Hyperparameters) -> optax.GradientTransformation:
    return adam(flags, {**h, "weight_decay": h["weight_decay"] / h["lr"]})


def _amsgrad_corrected_first(flags: AdamFlags, h: Hyperparameters) -> optax.GradientTransformation:
    return adam_around(optax.scale_by_amsgrad(h["beta1"], h["beta2"], h["eps"]), flags, h)


def _amsgrad_unused(flags: AdamFlags, h: Hyperparameters) -> optax.GradientTransformation:
    """Keep the maximum, and divide as plain Adam does."""
    kept = own.scale_by_torch_amsgrad(h["beta1"], h["beta2"], h["eps"])
    plain = optax.scale_by_adam(h["beta1"], h["beta2"], h["eps"])

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        used, _ = plain.update(updates, optax.ScaleByAdamState(state.count, state.mu, state.nu), params)
        return used, kept.update(updates, state, params)[1]

    return adam_around(optax.GradientTransformation(kept.init, update), flags, h)


def _correction(*, first: bool = True, second: bool = True, eps_early: bool = False) -> Chain:
    """Take Optax's moments without their corrections, and make only some of these.

    `eps_early`: eps is added before the second moment is corrected.
    """

    def chain(flags: AdamFlags, h: Hyperparameters) -> optax.GradientTransformation:
        def at(count: Any) -> tuple[optax.GradientTransformation, Any]:
            root = jnp.sqrt(1.0 - h["beta2"] ** count) if second else jnp.ones(())
            eps = h["eps"] if eps_early else h["eps"] * root
            unbias = 1.0 - h["beta1"] ** count if first else 1.0
            if flags.amsgrad:
                moments = optax.scale_by_amsgrad(
                    h["beta1"], h["beta2"], eps, bias_correction_mu=False, bias_correction_nu=False
                )
            else:
                moments = _uncorrected(h["beta1"], h["beta2"], eps)
            return moments, root / unbias

        return adam_around(own.by_count(at), flags, h)

    return chain


def _uncorrected(b1: Any, b2: Any, eps: Any) -> optax.GradientTransformation:
    """Return m / (sqrt(v) + eps), of arrays."""

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        del params
        mu = optax.tree.update_moment(updates, state.mu, b1, 1)
        nu = optax.tree.update_moment(updates, state.nu, b2, 2)
        return mu / (jnp.sqrt(nu) + eps), optax.ScaleByAdamState(state.count + 1, mu, nu)

    return optax.GradientTransformation(optax.scale_by_adam().init, update)  # pyright: ignore[reportArgumentType]


_eps_early = _correction(eps_early=True)
_no_first_correction = _correction(first=False)
_no_second_correction = _correction(second=False)
_no_corrections = _correction(first=False, second=False)
_decay_of_new_parameters = decay_of_new_parameters(adam, _without_decay)


def _wrong_formulas(flags: AdamFlags) -> Iterator[WrongFormula]:
    if not flags.amsgrad:
        yield "eps is inside the square root", _eps_inside
    yield "eps is added before the bias correction of the second moment", _eps_early
    yield "the bias correction of the first moment is missing", _no_first_correction
    yield "the bias correction of the second moment is missing", _no_second_correction
    yield "both bias corrections are missing", _no_corrections
    if flags.decay == "decoupled":
        yield "weight decay is not multiplied by lr", _decay_without_lr
        yield "weight decay is taken from the new parameters", _decay_of_new_parameters
    if flags.amsgrad:
        yield "AMSGrad's maximum is kept but not used", _amsgrad_unused
        yield "AMSGrad corrects the bias before it takes the maximum (as Optax does)", _amsgrad_corrected_first


OF_ADAM = Mistakes(_wrong_inputs, _wrong_formulas)
