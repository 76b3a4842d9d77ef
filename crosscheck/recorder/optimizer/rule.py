"""Chooses the rule that a recording claims: that of the optimizer's class, or the one that the user names."""

import re

import torch

from crosscheck.errors import UnsupportedOptimizer
from crosscheck.recorder.optimizer.tensors import DTYPES

CLASSES = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
"""The formulas that can be claimed, and whose they are."""


def choose_rule(optimizer: torch.optim.Optimizer, rule: str) -> str:
    """Return the name of the claimed formula; `auto` goes by the class. Raises UnsupportedOptimizer."""
    kinds = [base.__name__ for base in type(optimizer).__mro__]
    if any(re.search(r"(4bit|8bit|Fp8)$", kind, re.IGNORECASE) for kind in kinds):
        raise UnsupportedOptimizer(
            f"{kinds[0]} keeps its state in fewer bits than any format that the rules know; record the same optimizer with its "
            f"state in {', '.join(DTYPES.values())}"
        )
    if rule in CLASSES:
        return rule
    accepted = ", ".join(CLASSES)
    if rule != "auto":
        raise UnsupportedOptimizer(f"rule={rule!r}: there is no such rule; there are {accepted}")
    for name in ("adamw", "adam", "sgd"):  # AdamW is a subclass of Adam
        if isinstance(optimizer, CLASSES[name]):
            return name
    raise UnsupportedOptimizer(
        f"there is no rule for {type(optimizer).__name__}; there are {accepted}. If it claims one of these formulas, "
        "say which with rule="
    )
