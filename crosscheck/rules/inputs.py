"""What goes into a rule, and one step of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import optax
from jaxtyping import Bool, Float64, Int32

from crosscheck.rules.arrays import Array
from crosscheck.rules.rule import Flags, Hyperparameters, Rule
from crosscheck.trace.format import GRAD, PARAM


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True, slots=True)
class Inputs:
    """A batch of rows, each of one step of one tensor."""

    values: Mapping[str, Float64[Array, "rows width"]]
    """`param`, `grad` and each slot before the step."""
    recorded: Mapping[str, Float64[Array, "rows width"]]
    """`param` and each slot after the step."""
    width: Int32[Array, " rows"]
    """How many elements of each row are real; the rest is padding."""
    judged: Bool[Array, "rows outputs"]
    """Which outputs the record holds."""
    hyperparameters: Mapping[str, Float64[Array, " rows"]]
    counts: Mapping[str, Int32[Array, " rows"]]
    """Each slot that counts steps, before this step."""
    absent: Mapping[str, Bool[Array, " rows"]]
    """For each slot that torch makes in the first step: whether it is yet to be made."""
    size_error: Float64[Array, "rows outputs"]
    """What storing may change, relative to the larger of the number before and after the step."""
    result_error: Float64[Array, "rows outputs"]
    """What storing once more may change, relative to the result: a fused kernel computes in a wider format."""
    lost: Float64[Array, "rows outputs"]
    """What storing may change at least, however small the number."""
    compute_error: Float64[Array, "rows outputs"]
    """The unit roundoff of the format in which the change is computed."""
    floor: Float64[Array, "rows outputs"]
    """Below this number the rounding errors of the output's format are absolute."""
    largest: Float64[Array, "rows outputs"]
    """The largest finite number of the format."""
    scalar_error: Float64[Array, " rows"]
    """The relative error of what is computed once a tensor: powers of beta, a clipping norm."""
    beta_error: Float64[Array, " rows"]
    """The relative error of beta itself in its powers."""
    rounds_between: Bool[Array, " rows"]
    """Whether intermediate results are stored in the formats of the tensors."""
    biased: Bool[Array, " rows"]
    """Whether storing may change all elements alike: a half that decays by a thousandth and is stored does not decay."""


def one_step(
    rule: Rule[Any],
    flags: Flags,
    h: Hyperparameters,
    counts: Mapping[str, Int32[Array, ""]],
    absent: Mapping[str, Bool[Array, ""]],
    values: Mapping[str, Float64[Array, " width"]],
) -> dict[str, Float64[Array, " width"]]:
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
