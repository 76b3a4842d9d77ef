"""What goes into a rule, and one step of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import optax

from crosscheck.rules.rule import Flags, Hyperparameters, Rule
from crosscheck.trace.format import GRAD, PARAM


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True, slots=True)
class Inputs:
    """A batch of rows of one tensor and step each. R rows, W elements, S outputs: `param`, then the slots."""

    values: Mapping[str, Any]  # "param", "grad" and each slot before the step: (R, W) float64
    recorded: Mapping[str, Any]  # "param" and each slot after it: (R, W) float64
    width: Any  # (R,) elements that are real; the rest is padding
    judged: Any  # (R, S) bool: outputs that the record holds
    hyperparameters: Mapping[str, Any]  # (R,) float64 each
    counts: Mapping[str, Any]  # each slot that counts steps, before this one: (R,) int32
    absent: Mapping[str, Any]  # each slot that torch makes in the first step: (R,) bool, whether it is yet to be made
    roundoff: Any  # (R, S) float64: u of the output's format
    floor: Any  # (R, S) float64
    largest: Any  # (R, S) float64: largest finite number of the format
    scalar_error: Any  # (R,) float64: relative error of what is computed once a tensor: powers of beta, a clipping norm
    beta_error: Any  # (R,) float64: relative error of beta itself in its powers
    rounds_between: Any  # (R,) bool: intermediate results are stored in the tensors' formats


def one_step(
    rule: Rule[Any],
    flags: Flags,
    h: Hyperparameters,
    counts: Mapping[str, Any],
    absent: Mapping[str, Any],
    values: Mapping[str, Any],
) -> dict[str, Any]:
    """Return the parameter and every elementwise slot after one step of the Optax chain. See `Inputs` for the rest."""
    slots = rule.elementwise(flags)
    chain = rule.chain(flags, h)
    state = chain.init(values[PARAM])
    fields = {slot.field: values[name] for name, slot in slots.items()}
    fields |= {slot.field: counts[name] for name, slot in rule.counts(flags).items()}
    fields |= {start.field: absent[name] for name, start in rule.absent_at_first(flags).items()}
    state = optax.tree.set(state, **fields) if fields else state
    updates, state = chain.update(values[GRAD], state, values[PARAM])
    after: dict[str, Any] = {PARAM: optax.apply_updates(values[PARAM], updates)}
    return after | {name: optax.tree.get(state, slot.field) for name, slot in slots.items()}
