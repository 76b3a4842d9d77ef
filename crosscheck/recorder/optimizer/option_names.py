"""Options that others call by other names than torch: each is recorded under torch's name as well, or refused.

torch's own classes have all options of their rule. Another optimizer that claims the rule has to tell them, because what it does
not tell would have to be guessed.
"""

from collections.abc import Mapping
from typing import Any

import torch

from crosscheck.errors import UnsupportedOptimizer
from crosscheck.recorder.optimizer.rule import CLAIMABLE
from crosscheck.trace.format import ROUNDOFF_OF, Option

_DECOUPLED = "decoupled_weight_decay"
_ALSO_DECOUPLED = (
    "weight_decouple",  # AdaBelief, pytorch_optimizer
    "decouple_weight_decay",  # torch_optimizer
    "decoupled_decay",  # timm
    "decouple",  # Prodigy, D-Adaptation
    "adam_w_mode",  # apex, DeepSpeed, Transformer Engine
)
"""Flags that say whether weight decay goes past the gradient, as AdamW's does, or into it."""
_OTHER_FORMULA: tuple[tuple[str, bool, str], ...] = (
    ("bias_correction", False, "it does not correct the bias of its averages"),
    ("correct_bias", False, "it does not correct the bias of its averages"),
    ("rectify", True, "it rectifies its first steps, as RAdam does"),
    ("nesterov", True, "it looks ahead, as NAdam does"),
    ("caution", True, "it leaves out what points against the gradient"),
    ("cautious", True, "it leaves out what points against the gradient"),
)
"""Flags of optimizers like Adam that make another formula of it, each with the value that does."""
_OTHER_DECAY = {
    "fixed_decay": "its weight decay is not multiplied by the learning rate",
    "corrected_weight_decay": "its weight decay is multiplied by the square of the learning rate",
    "decouple_lr": "its weight decay is multiplied by the learning rate's share of the highest one",
}
"""Flags that make another weight decay of it, where they are set."""
_FLAGS = (*_ALSO_DECOUPLED, *_OTHER_DECAY, *(name for name, *_ in _OTHER_FORMULA))


def with_torch_names(
    optimizer: torch.optim.Optimizer, number: int, rule: str, options: Mapping[str, Option]
) -> dict[str, Option]:
    """Return the options of a parameter group with those that the rule reads, under torch's names for them.

    Raises UnsupportedOptimizer, by name, for what the optimizer does not tell, and for what says that its formula is another.
    """
    kind = type(optimizer)
    where = f"{kind.__name__} (parameter group {number})"
    named, group = dict(options), optimizer.param_groups[number]
    if "epsilon" in options:
        named.setdefault("eps", options["epsilon"])
    for name in CLAIMABLE[rule].numbers:
        by_torch = kind.step.__module__.startswith("torch.optim.")
        named[name] = _number(where, name, group.get(name), named.get(name), true_is_one=by_torch)
    if rule != "sgd":
        named |= _betas(where, group, options)
        if "ams_bound" in options:  # pytorch_optimizer
            named.setdefault("amsgrad", options["ams_bound"])
    flags = _flags(optimizer, options)
    if named["weight_decay"]:
        _expect_known_decay(where, rule, flags, options)
    also = [flags[name] for name in _ALSO_DECOUPLED if name in flags]
    if rule != "sgd":
        _expect_known_formula(where, rule, flags)
        named |= {_DECOUPLED: also[0]} if also else {}
    return named


def _flags(optimizer: torch.optim.Optimizer, options: Mapping[str, Option]) -> dict[str, bool]:
    """Return the flags of a group; some are kept as attributes of the optimizer."""
    told: dict[str, Any] = {name: getattr(optimizer, name, None) for name in _FLAGS} | dict(options)
    return {name: bool(told[name]) for name in _FLAGS if isinstance(told[name], int | float)}


def _number(where: str, name: str, given: Any, value: Option, *, true_is_one: bool) -> int | float:
    if value is True and not true_is_one:
        raise UnsupportedOptimizer(f"{name} = True of {where} does not tell how much; give the number itself")
    if isinstance(value, int | float):
        return float(value) if isinstance(value, bool) else value
    if given is not None:
        raise UnsupportedOptimizer(f"{name} = {given!r} of {where}: the rule needs a number")
    zero = "" if name in ("lr", "eps") else f", to 0.0 if it has no {name.replace('_', ' ')}"
    raise UnsupportedOptimizer(f"{where} has no {name}, which the rule needs: set it in the group{zero}")


def _betas(where: str, group: Mapping[str, Any], options: Mapping[str, Option]) -> Mapping[str, Option]:
    betas = options.get("betas")
    if isinstance(betas, tuple) and len(betas) == 2:
        return {}
    if "betas" in group:
        raise UnsupportedOptimizer(f"betas = {group['betas']!r} of {where}: the rule needs two numbers")
    found = tuple(float(beta) for name in ("beta1", "beta2") if isinstance(beta := options.get(name), int | float))
    if len(found) < 2:
        raise UnsupportedOptimizer(
            f"{where} has neither betas nor beta1 and beta2, which the rule needs: set them in the group"
        )
    roundoffs = [options.get(name + ROUNDOFF_OF) for name in ("beta1", "beta2")]
    known = [roundoff for roundoff in roundoffs if isinstance(roundoff, float)]
    return {"betas": found} | ({"betas" + ROUNDOFF_OF: max(known)} if known else {})


def _expect_known_decay(where: str, rule: str, flags: Mapping[str, bool], options: Mapping[str, Option]) -> None:
    """Raises UnsupportedOptimizer for weight decay that is not the rule's."""
    for name, why in _OTHER_DECAY.items():
        if flags.get(name):
            raise UnsupportedOptimizer(f"{name} = True of {where}: {why}, which no rule covers")
    also = {name: flags[name] for name in _ALSO_DECOUPLED if name in flags}
    told = also | ({_DECOUPLED: bool(options[_DECOUPLED])} if _DECOUPLED in options else {})
    if also and len(set(told.values())) > 1:
        raise UnsupportedOptimizer(f"{' and '.join(told)} of {where} contradict each other; set them alike")
    for name, decoupled in also.items():
        if decoupled and rule == "sgd":
            raise UnsupportedOptimizer(
                f"{name} = True of {where}: its weight decay goes past the gradient, where that of sgd goes into it, and no rule "
                "covers that"
            )
        if not decoupled and rule == "adamw":
            raise UnsupportedOptimizer(
                f"{name} = False of {where}: its weight decay goes into the gradient, where that of adamw goes past it; claim "
                "rule='adam'"
            )


def _expect_known_formula(where: str, rule: str, flags: Mapping[str, bool]) -> None:
    """Raises UnsupportedOptimizer for a flag that makes another formula of Adam's."""
    for name, value, why in _OTHER_FORMULA:
        if flags.get(name) is value:
            raise UnsupportedOptimizer(
                f"{name} = {value} of {where}: {why}, so its formula is not that of {rule}, and no rule covers it"
            )
