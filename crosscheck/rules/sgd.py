"""Writes torch.optim.SGD as an Optax chain, and says how its options and its state are read."""

from collections.abc import Mapping
from dataclasses import dataclass

import optax

from crosscheck.rules import own
from crosscheck.rules.rule import Absent, Hyperparameters, Options, Rule, Slot, flag, number, signed_gradient


@dataclass(frozen=True, slots=True)
class SGDFlags:
    """What selects the shape of SGD's formula."""

    momentum: bool = False
    nesterov: bool = False  # only with momentum
    decay: bool = False


def sgd(flags: SGDFlags, h: Hyperparameters) -> optax.GradientTransformation:
    """b <- mu b + (1 - tau) g (b <- g the first time); p <- p - lr (b, or g + mu b with Nesterov).

    Under `maximize` the sign of g turns first; then weight decay adds wd p to it. Without momentum there is
    no buffer. Source: the algorithm in torch.optim.SGD's documentation (Sutskever et al. 2013).
    """
    return optax.chain(*signed_decay(flags, h), *sgd_momentum(flags, h), optax.scale_by_learning_rate(h["lr"]))


def signed_decay(flags: SGDFlags, h: Hyperparameters) -> list[optax.GradientTransformation]:
    """Return what stands before the momentum: the sign of g, and weight decay."""
    decay = [optax.add_decayed_weights(h["weight_decay"])] if flags.decay else []
    return [optax.scale(h["sign"]), *decay]


def sgd_momentum(flags: SGDFlags, h: Hyperparameters) -> list[optax.GradientTransformation]:
    """Return what keeps b, and makes the update of it before the learning rate; nothing without momentum."""
    return [own.dampen(h["dampening"]), optax.trace(h["momentum"], nesterov=flags.nesterov)] if flags.momentum else []


def _flags(options: Options) -> SGDFlags:
    momentum = number(options, "momentum") != 0
    nesterov = momentum and flag(options, "nesterov")
    return SGDFlags(momentum, nesterov, number(options, "weight_decay") != 0)


def _hyperparameters(options: Options) -> dict[str, float]:
    names = ("lr", "momentum", "dampening", "weight_decay")
    return {name: number(options, name) for name in names} | {"sign": -1.0 if flag(options, "maximize") else 1.0}


def _hyperparameters_read(flags: SGDFlags) -> tuple[str, ...]:
    return (
        "lr",
        *(("weight_decay",) if flags.decay else ()),
        *(("momentum", "dampening") if flags.momentum else ()),
    )


def _decays_gradient(flags: SGDFlags) -> bool:
    return flags.decay


def _unused(flags: SGDFlags) -> tuple[str, ...]:
    return () if flags.momentum else ("momentum_buffer",)


def _own(flags: SGDFlags, h: Mapping[str, float]) -> tuple[str, ...]:
    return ("dampen",) if flags.momentum and h["dampening"] else ()


def _formula(flags: SGDFlags, h: Mapping[str, float], first: bool) -> tuple[str, ...]:
    lines = [f"d = {signed_gradient(h)}{' + weight_decay * param' if flags.decay else ''}"]
    if not flags.momentum:
        return (*lines, "param = param - lr * d")
    taken = "d" if first else "momentum * momentum_buffer + (1 - dampening) * d"
    update = "(d + momentum * momentum_buffer)" if flags.nesterov else "momentum_buffer"
    return (*lines, f"momentum_buffer = {taken}", f"param = param - lr * {update}")


def _stock(flags: SGDFlags, options: Options) -> optax.GradientTransformation:
    """Return `optax.sgd`, with ascent as a negative learning rate and decay in front; it has no argument for dampening."""
    lr = number(options, "lr") * (-1 if flag(options, "maximize") else 1)
    before = [optax.add_decayed_weights(number(options, "weight_decay"))] if flags.decay else []
    return optax.chain(*before, optax.sgd(lr, number(options, "momentum") or None, nesterov=flags.nesterov))


SGD = Rule(
    name="sgd",
    flags=_flags,
    hyperparameters=_hyperparameters,
    slots={
        "momentum_buffer": Slot(
            "trace", start=Absent("first", "dampening", "dampening then takes a part of that gradient"), stores=2
        )
    },
    unused=_unused,
    chain=sgd,
    own=_own,
    hyperparameters_read=_hyperparameters_read,
    formula=_formula,
    decays_gradient=_decays_gradient,
    stock=_stock,
)
