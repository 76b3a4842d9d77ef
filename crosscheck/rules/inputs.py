"""What goes into a rule, and one step of it."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import optax

from crosscheck.rules.rule import Flags, Hyperparameters, Rule
from crosscheck.trace.format import GRAD, PARAM


class Inputs(NamedTuple):
    """A batch of rows of one tensor and step each. R rows, W elements, S outputs: `param`, then the slots."""

    values: Mapping[str, Any]  # "param", "grad" and each slot before the step: (R, W) float64
    recorded: Mapping[str, Any]  # "param" and each slot after it: (R, W) float64
    width: Any  # (R,) elements that are real; the rest is padding
    judged: Any  # (R, S) bool: outputs that the record holds
    hyperparameters: Mapping[str, Any]  # (R,) float64 each
    count: Any  # (R,) int32: steps of the tensor so far
    first: Any  # (R,) bool: no gradient has been seen so far
    roundoff: Any  # (R, S) float64: u of the output's format
    floor: Any  # (R, S) float64
    largest: Any  # (R, S) float64: largest finite number of the format
    scalar_error: Any  # (R,) float64: relative error of what is computed once a tensor: powers of beta, a clipping norm
    beta_error: Any  # (R,) float64: relative error of beta itself in its powers
    rounds_between: Any  # (R,) bool: intermediate results are stored in the tensors' formats


def one_step(
    rule: Rule, flags: Flags, h: Hyperparameters, count: Any, first: Any, values: Mapping[str, Any]
) -> dict[str, Any]:
    """The parameter and every slot after one step of the Optax chain."""
    slots = rule.slots(flags)
    chain = rule.chain(flags, h)
    state = chain.init(values[PARAM])
    fields = {field: values[slot] for slot, field in slots.items()}
    if rule.counts:
        fields["count"] = count
    elif slots:
        fields["first"] = first
    state = optax.tree.set(state, **fields) if fields else state
    updates, state = chain.update(values[GRAD], state, values[PARAM])
    after: dict[str, Any] = {PARAM: optax.apply_updates(values[PARAM], updates)}
    return after | {slot: optax.tree.get(state, field) for slot, field in slots.items()}
