"""Chooses the rule that a recording claims: that of the optimizer's class, or the one that the user names."""

import re
from collections.abc import Mapping
from typing import NamedTuple

import torch

from crosscheck.errors import UnsupportedOptimizer
from crosscheck.recorder.optimizer.tensors import DTYPES


class ClaimedRule(NamedTuple):
    """What the recorder knows of a formula that can be claimed."""

    torch_class: type[torch.optim.Optimizer]
    numbers: tuple[str, ...]
    """The options that are one number each; the two betas of Adam come to it."""
    slots: tuple[str, ...]
    """The state that has a number for each element, without what only a flag brings."""


_ADAM = ("lr", "eps", "weight_decay"), ("exp_avg", "exp_avg_sq")
CLAIMABLE = {
    "sgd": ClaimedRule(torch.optim.SGD, ("lr", "momentum", "dampening", "weight_decay"), ("momentum_buffer",)),
    "adam": ClaimedRule(torch.optim.Adam, *_ADAM),
    "adamw": ClaimedRule(torch.optim.AdamW, *_ADAM),
}
_FEWEST_BITS = 16


def choose_rule(optimizer: torch.optim.Optimizer, rule: str) -> str:
    """Return the name of the claimed formula; `auto` goes by the class. Raises UnsupportedOptimizer."""
    if _has_few_bits(optimizer):
        raise UnsupportedOptimizer(
            f"{type(optimizer).__name__} keeps its state in fewer bits than any format that the rules know; record the same "
            f"optimizer with its state in {', '.join(DTYPES.values())}"
        )
    if rule in CLAIMABLE:
        return rule
    accepted = ", ".join(CLAIMABLE)
    if rule != "auto":
        raise UnsupportedOptimizer(f"rule={rule!r}: there is no such rule; there are {accepted}")
    for name in ("adamw", "adam", "sgd"):  # AdamW is a subclass of Adam
        if isinstance(optimizer, CLAIMABLE[name].torch_class):
            return name
    raise UnsupportedOptimizer(
        f"there is no rule for {type(optimizer).__name__}; there are {accepted}. If it claims one of these formulas, "
        "say which with rule=, or with --rule of the command record"
    )


def _has_few_bits(optimizer: torch.optim.Optimizer) -> bool:
    """Return whether an optimizer says that its state has fewer bits than a half.

    Those of bitsandbytes say it by a number, because all of them are derived from its `Optimizer8bit`; others by the name of a
    class.
    """
    bits = getattr(getattr(optimizer, "args", None), "optim_bits", None)
    if isinstance(bits, int):
        return bits < _FEWEST_BITS
    kinds = (base.__name__ for base in type(optimizer).__mro__)
    return any(re.search(r"(4bit|8bit|Fp8)$", kind, re.IGNORECASE) for kind in kinds)


def slot_names(rule: str, slots: Mapping[str, str]) -> dict[str, str]:
    """Return the rule's names of state by this optimizer's. `slots`: the other way round, where they differ.

    Raises ValueError if two slots of the rule would have one name.
    """
    theirs = {name: name for name in CLAIMABLE[rule].slots} | dict(slots)
    for name, key in slots.items():
        same = next((other for other, its in theirs.items() if its == key and other != name), None)
        if same is not None:
            raise ValueError(
                f"slots={dict(slots)}: {name} and {same} would both be {key!r}; give each a name of its own"
            )
    return {key: name for name, key in slots.items()}
