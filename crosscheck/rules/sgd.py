"""torch.optim.SGD."""

from collections.abc import Mapping
from typing import Any

import optax

from crosscheck.rules import own
from crosscheck.rules.rule import Flags, Hyperparameters, Options, Rule, flag, number


def sgd(flags: Flags, h: Hyperparameters) -> optax.GradientTransformation:
    """b <- mu b + (1 - tau) g (b <- g the first time); p <- p - lr (b, or g + mu b with Nesterov).

    Under `maximize` the sign of g turns first; then weight decay adds wd p to it. Without momentum there is
    no buffer. Source: the algorithm in torch.optim.SGD's documentation (Sutskever et al. 2013).
    """
    parts = [optax.scale(h["sign"])]
    if flags.decay == "coupled":
        parts.append(optax.add_decayed_weights(h["weight_decay"]))
    if flags.variant != "plain":
        parts.append(own.dampen(h["dampening"]))
        parts.append(optax.trace(h["momentum"], nesterov=flags.variant == "nesterov"))
    return optax.chain(*parts, optax.scale_by_learning_rate(h["lr"]))


def _flags(options: Options) -> Flags:
    variant = "plain" if number(options, "momentum") == 0 else "nesterov" if flag(options, "nesterov") else "momentum"
    return Flags(variant, "coupled" if number(options, "weight_decay") != 0 else "none")


def _hyperparameters(options: Options) -> dict[str, float]:
    names = ("lr", "momentum", "dampening", "weight_decay")
    return {name: number(options, name) for name in names} | {"sign": -1.0 if flag(options, "maximize") else 1.0}


def _slots(flags: Flags) -> dict[str, str]:
    return {} if flags.variant == "plain" else {"momentum_buffer": "trace"}


def _matters(flags: Flags) -> tuple[str, ...]:
    return (
        "lr",
        *(("weight_decay",) if flags.decay != "none" else ()),
        *(("momentum", "dampening") if flags.variant != "plain" else ()),
    )


def _own(flags: Flags, h: Mapping[str, Any]) -> tuple[str, ...]:
    return ("dampen",) if flags.variant != "plain" and h["dampening"] else ()


SGD = Rule(
    name="sgd",
    flags=_flags,
    hyperparameters=_hyperparameters,
    slots=_slots,
    chain=sgd,
    own=_own,
    matters=_matters,
)
