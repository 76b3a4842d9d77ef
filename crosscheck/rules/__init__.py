"""The formulas of torch.optim, written with Optax's own pieces wherever Optax can say them. Never imports torch."""

from typing import Any

from crosscheck.rules.adam import ADAM, ADAMW
from crosscheck.rules.rule import Rule
from crosscheck.rules.sgd import SGD

RULES: dict[str, Rule[Any]] = {rule.name: rule for rule in (SGD, ADAM, ADAMW)}
"""By the name that a trace's header gives."""
