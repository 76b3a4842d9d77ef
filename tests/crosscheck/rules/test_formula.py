"""The formula that a report shows is the one that is computed: its lines, run as Python, give what the Optax chain gives."""

import itertools
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from crosscheck.float64 import float64
from crosscheck.rules import RULES
from crosscheck.rules.average import MOVING_AVERAGE
from crosscheck.rules.clipping import CLIPPING
from crosscheck.rules.inputs import one_step
from crosscheck.rules.rule import Rule
from crosscheck.trace.format import GRAD, PARAM

SWITCHES = {
    "sgd": {"momentum": (0.0, 0.9), "dampening": (0.0, 0.3), "nesterov": (False, True)},
    "adam": {"amsgrad": (False, True)},
    "adamw": {"amsgrad": (False, True)},
}


def cases() -> Iterator[tuple[Rule[Any], dict[str, Any]]]:
    """Yield every rule with every combination of what changes its formula."""
    for name, switches in SWITCHES.items():
        each = {**switches, "maximize": (False, True), "weight_decay": (0.0, 0.05)}
        for values in itertools.product(*each.values()):
            yield RULES[name], {"lr": 0.1, "betas": (0.8, 0.95), "eps": 1e-3, **dict(zip(each, values, strict=True))}
    scaled = {"loss_scale": 8.0, "world_size": 1.0}
    yield CLIPPING, scaled
    for norm in (0.5, 7.0):
        yield CLIPPING, {**scaled, "clip_norm": 1.0, "norm": norm, "norm_eps": 1e-6, "norm_error": 1.0}
    yield CLIPPING, {**scaled, "clip_value": 0.01}
    for seen in (0.0, 3.0):
        yield MOVING_AVERAGE, {"decay": 0.9, "seen": seen}
        yield MOVING_AVERAGE, {"decay": 0.0, "seen": seen, "equal": True}


CASES = [
    (rule, options, first)
    for rule, options in cases()
    for first in (False, True)
    if not (options.get("nesterov") and options["dampening"])  # torch refuses it
    and (not first or rule.absent_at_first(rule.flags(options)))
]


@pytest.mark.parametrize(
    ("rule", "options", "first"), CASES, ids=lambda value: value.name if isinstance(value, Rule) else str(value)
)
def test_its_lines_give_what_optax_gives(rule: Rule[Any], options: dict[str, Any], first: bool) -> None:
    flags, h = rule.flags(options), rule.hyperparameters(options)
    values = {PARAM: 0.0 if rule is CLIPPING else 0.7, GRAD: -0.3}
    values |= {name: 0.0 if first else 0.2 + 0.1 * k for k, name in enumerate(rule.elementwise(flags))}
    with float64():
        arrays = {name: np.array([value]) for name, value in values.items()}
        made = one_step(
            rule,
            flags,
            h,
            dict.fromkeys(rule.counts(flags), np.array(4, dtype=np.int32)),  # pyright: ignore[reportArgumentType]
            dict.fromkeys(rule.absent_at_first(flags), np.array(first)),  # pyright: ignore[reportArgumentType]
            arrays,  # pyright: ignore[reportArgumentType]
        )
    known: dict[str, Any] = {**h, "t": 5, "sqrt": math.sqrt, **values}
    known |= {rule.moved: values[PARAM], rule.reads: values[GRAD]}
    for line in rule.formula(flags, h, first):
        exec(line, known)  # noqa: S102 (our own text)
    for name, array in made.items():
        assert known[rule.moved if name == PARAM else name] == pytest.approx(float(array[0]), rel=1e-14)
