"""Formulas that are often taken for torch's, in the same pieces and with the same state: to name what went wrong."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from crosscheck.rules import own
from crosscheck.rules.adam import adam, adam_around
from crosscheck.rules.rule import Flags, Hyperparameters, Rule
from crosscheck.rules.sgd import sgd

Chain = Callable[[Flags, Hyperparameters], optax.GradientTransformation]


def mistakes(rule: Rule, flags: Flags) -> Iterator[tuple[str, Rule]]:
    """A sentence and the rule that it makes of `rule`, for every mistake that these flags leave room for."""
    for sentence, wanted, chain in _OF.get(rule.name, []):
        if all(any(part.startswith(w) for part in flags) for w in wanted):
            yield sentence, replace(rule, chain=chain)


def _sgd_decay_late(flags: Flags, h: Hyperparameters) -> optax.GradientTransformation:
    momentum = [own.dampen(h["dampening"]), optax.trace(h["momentum"], nesterov=flags.variant == "nesterov")]
    return optax.chain(
        optax.scale(h["sign"]),
        *(momentum if flags.variant != "plain" else []),
        optax.add_decayed_weights(h["weight_decay"]),
        optax.scale_by_learning_rate(h["lr"]),
    )


def _sgd_lr_inside(flags: Flags, h: Hyperparameters) -> optax.GradientTransformation:
    return optax.chain(
        optax.scale(h["sign"]),
        optax.add_decayed_weights(h["weight_decay"]),
        optax.scale(h["lr"]),
        own.dampen(h["dampening"]),
        optax.trace(h["momentum"], nesterov=flags.variant == "nesterov"),
        optax.scale(-1.0),
    )


def _decay_on_new(chain: Chain) -> Chain:
    """The step first, then the decay of what it made."""

    def mistaken(flags: Flags, h: Hyperparameters) -> optax.GradientTransformation:
        bare = chain(Flags(flags.variant, "none"), h)
        shrink = h["lr"] * h["weight_decay"]

        def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
            updates, state = bare.update(updates, state, params)

            def decayed(u: Any, p: Any) -> Any:
                return u - shrink * (p + u)

            return jax.tree.map(decayed, updates, params), state

        return optax.GradientTransformation(bare.init, update)

    return mistaken


def _adam_eps_inside(flags: Flags, h: Hyperparameters) -> optax.GradientTransformation:
    return adam_around(optax.scale_by_adam(h["beta1"], h["beta2"], eps=0.0, eps_root=h["eps"]), flags, h)


def _adam_decay_without_lr(flags: Flags, h: Hyperparameters) -> optax.GradientTransformation:
    return adam(flags, {**h, "weight_decay": h["weight_decay"] / h["lr"]})


def _amsgrad_corrected_first(flags: Flags, h: Hyperparameters) -> optax.GradientTransformation:
    return adam_around(optax.scale_by_amsgrad(h["beta1"], h["beta2"], h["eps"]), flags, h)


def _amsgrad_unused(flags: Flags, h: Hyperparameters) -> optax.GradientTransformation:
    """The maximum is kept, the divisor is plain Adam's."""
    kept = own.scale_by_torch_amsgrad(h["beta1"], h["beta2"], h["eps"])
    plain = optax.scale_by_adam(h["beta1"], h["beta2"], h["eps"])

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        used, _ = plain.update(updates, optax.ScaleByAdamState(state.count, state.mu, state.nu), params)
        return used, kept.update(updates, state, params)[1]

    return adam_around(optax.GradientTransformation(kept.init, update), flags, h)


class _Correction(NamedTuple):
    """Which of Adam's two bias corrections are made, and whether eps joins before the second."""

    first: bool = True
    second: bool = True
    eps_early: bool = False


def _adam_correction(kind: _Correction) -> Chain:
    """Optax's moments without their corrections, and then only some of these."""

    def chain(flags: Flags, h: Hyperparameters) -> optax.GradientTransformation:
        def at(count: Any) -> tuple[optax.GradientTransformation, Any]:
            root = jnp.sqrt(1.0 - h["beta2"] ** count) if kind.second else jnp.ones(())
            eps = h["eps"] if kind.eps_early else h["eps"] * root
            first = 1.0 - h["beta1"] ** count if kind.first else 1.0
            if flags.variant == "amsgrad":
                moments = optax.scale_by_amsgrad(
                    h["beta1"], h["beta2"], eps, bias_correction_mu=False, bias_correction_nu=False
                )
            else:
                moments = _uncorrected(h["beta1"], h["beta2"], eps)
            return moments, root / first

        return adam_around(own.by_count(at), flags, h)

    return chain


def _uncorrected(b1: Any, b2: Any, eps: Any) -> optax.GradientTransformation:
    """m / (sqrt(v) + eps)."""

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        del params
        mu = optax.tree.update_moment(updates, state.mu, b1, 1)
        nu = optax.tree.update_moment(updates, state.nu, b2, 2)

        def divide(m: Any, v: Any) -> Any:
            return m / (jnp.sqrt(v) + eps)

        step = jax.tree.map(divide, mu, nu)
        return step, optax.ScaleByAdamState(state.count + 1, mu, nu)

    return optax.GradientTransformation(optax.scale_by_adam().init, update)  # pyright: ignore[reportArgumentType]


_OF_SGD: list[tuple[str, tuple[str, ...], Chain]] = [
    ("weight decay is added after the momentum instead of to the gradient", ("coupled",), _sgd_decay_late),
    ("weight decay is taken from the new parameters", ("coupled",), _decay_on_new(sgd)),
    ("the learning rate is inside the momentum buffer", ("momentum",), _sgd_lr_inside),
    ("the learning rate is inside the momentum buffer", ("nesterov",), _sgd_lr_inside),
]
_OF_ADAM: list[tuple[str, tuple[str, ...], Chain]] = [
    ("eps is inside the square root", ("plain",), _adam_eps_inside),
    ("eps is added before the bias correction of the second moment", (), _adam_correction(_Correction(eps_early=True))),
    ("the bias correction of the first moment is missing", (), _adam_correction(_Correction(first=False))),
    ("the bias correction of the second moment is missing", (), _adam_correction(_Correction(second=False))),
    ("both bias corrections are missing", (), _adam_correction(_Correction(first=False, second=False))),
    ("weight decay is not multiplied by lr", ("decoupled",), _adam_decay_without_lr),
    ("weight decay is taken from the new parameters", ("decoupled",), _decay_on_new(adam)),
    ("AMSGrad's maximum is kept but not used", ("amsgrad",), _amsgrad_unused),
    ("AMSGrad corrects the bias before it takes the maximum (as Optax does)", ("amsgrad",), _amsgrad_corrected_first),
]
_OF = {"sgd": _OF_SGD, "adam": _OF_ADAM, "adamw": _OF_ADAM}
