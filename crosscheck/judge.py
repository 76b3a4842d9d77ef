"""The criterion: by how many roundoffs of its inputs a recorded step misses its formula.

    eta = |recorded - exact| / (u (|exact| + sum over inputs x of |d exact / dx * x|) + floor)

that is, the recorded number is the exact formula on inputs each perturbed by at most eta roundoffs: a
componentwise backward error (Higham, Accuracy and Stability of Numerical Algorithms, chapter 7). The
derivatives come from `jax.linearize` of the Optax chain itself, so no bound is derived by hand.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from numpy.typing import NDArray

from crosscheck.rules.rule import Flags, Hyperparameters, Rule
from crosscheck.tolerance import FAIL
from crosscheck.trace.format import PARAM

COMPILED_FAST = {"xla_backend_optimization_level": 1, "xla_llvm_disable_expensive_passes": True}
"""A replay spends more time compiling than computing: these halve the one and do not change the other."""


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
    correction: Any  # (R,) float64: roundoff of bias corrections; 0 where they are exact
    off_by: Any  # (R,) float64: the fraction by which hyperparameters are tried wrong
    rounds_between: Any  # (R,) bool: intermediate results are stored in the tensors' formats


class Compared(NamedTuple):
    """Element by element: (R, S, W)."""

    eta: Array  # inf where recorded and exact differ in kind; 0 where nothing is judged
    exact: Array
    judged: Array
    out_of_range: Array  # what the format cannot represent
    power: Array  # (K,) the largest eta between the formula and itself with a hyperparameter wrong by `off_by`


class Judged(NamedTuple):
    """What came out, by row and output: (R, S)."""

    eta: NDArray[Any]  # the largest; inf where recorded and exact differ in kind
    element: NDArray[Any]  # where it is
    expected: NDArray[Any]  # exact value there
    recorded: NDArray[Any]
    over: NDArray[Any]  # elements beyond FAIL
    checked: NDArray[Any]  # elements judged
    out_of_range: NDArray[Any]  # elements that the format cannot represent
    power: Mapping[
        str, float
    ]  # by hyperparameter: the largest eta between the formula and itself with it wrong by `off_by`


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
    updates, state = chain.update(values["grad"], state, values[PARAM])
    after: dict[str, Any] = {PARAM: optax.apply_updates(values[PARAM], updates)}
    return after | {slot: optax.tree.get(state, field) for slot, field in slots.items()}


def compare(rule: Rule, flags: Flags, inputs: Inputs, *, tried: tuple[str, ...] = ()) -> Compared:
    """Compare a batch of recorded rows with the rule. `tried`: hyperparameters whose power is wanted."""
    names = (PARAM, *rule.slots(flags))
    real = jnp.arange(inputs.values[PARAM].shape[1])[None, :] < jnp.asarray(inputs.width)[:, None]

    def row(
        values: Any,
        h: Any,
        count: Any,
        first: Any,
        roundoff: Any,
        floor: Any,
        correction: Any,
        off_by: Any,
        rounds_between: Any,
    ) -> Any:
        def step(values: Any) -> dict[str, Any]:
            return one_step(rule, flags, h, count, first, values)

        exact: dict[str, Any]
        derivative: Callable[[dict[str, Any]], dict[str, Any]]
        exact, derivative = jax.linearize(step, values)  # pyright: ignore[reportUnknownVariableType]
        reach = {name: jnp.abs(exact[name]) for name in names}
        for name in values:
            along = {other: jnp.abs(x) if other == name else jnp.zeros_like(x) for other, x in values.items()}
            for output, moved in derivative(along).items():
                # sqrt has no derivative at zero; but a zero, perturbed by a factor, stays zero: it contributes none.
                reach[output] = reach[output] + jnp.where(jnp.isnan(moved), 0.0, jnp.abs(moved))
        if rule.correction_error is not None:
            update = jnp.abs(exact[PARAM] - values[PARAM])
            extra = correction * rule.correction_error(h, count) * update
        else:
            extra = 0.0
        if rule.underflow is not None:
            lost = rule.underflow(h, count, exact, dict(zip(names, floor, strict=True)))
            lost = jnp.where(rounds_between, lost, 0.0)
        else:
            lost = jnp.zeros_like(exact[PARAM])
        bound = {
            name: roundoff[i] * reach[name] + floor[i] + (extra + lost if name == PARAM else 0.0)
            for i, name in enumerate(names)
        }

        def wrong_by(factors: Any) -> Any:
            mistaken = {**h, **{name: h[name] * factors[i] for i, name in enumerate(tried)}}
            after = one_step(rule, flags, mistaken, count, first, values)
            return jnp.stack([jnp.abs(after[n] - exact[n]) / bound[n] for n in names])

        power = jax.vmap(wrong_by)(1 - off_by * jnp.eye(len(tried))) if tried else jnp.zeros((0, 1, 1))
        return jnp.stack([exact[n] for n in names]), jnp.stack([bound[n] for n in names]), jnp.isinf(lost), power

    exact, bound, lost, power = jax.vmap(row)(
        inputs.values,
        inputs.hyperparameters,
        inputs.count,
        inputs.first,
        inputs.roundoff,
        inputs.floor,
        inputs.correction,
        inputs.off_by,
        inputs.rounds_between,
    )  # (R, S, W) each, the last with hyperparameters in front: (R, K, S, W)
    recorded = jnp.stack([inputs.recorded[name] for name in names], axis=1)
    there = jnp.asarray(inputs.judged)[:, :, None] & real[:, None, :]
    beyond = jnp.isfinite(exact) & (jnp.abs(exact) > jnp.asarray(inputs.largest)[:, :, None])
    same_kind = (jnp.isnan(exact) & jnp.isnan(recorded)) | (exact == recorded)
    # Two spellings of one formula, p (1 - lr wd) and p - lr wd p, part at infinity: from there on any
    # number that is not finite will do.
    unusual = sum((~jnp.isfinite(x) for x in inputs.values.values()), jnp.zeros(real.shape, bool))
    same_kind |= unusual[:, None, :] & ~jnp.isfinite(exact) & ~jnp.isfinite(recorded)
    eta = jnp.where(same_kind, 0.0, jnp.abs(recorded - exact) / bound)
    eta = jnp.where(jnp.isnan(eta), jnp.inf, eta)
    # What a format cannot hold overflows, and takes with it what the same element computes from it.
    overflowed = jnp.any(there & beyond & ~jnp.isfinite(recorded), axis=1, keepdims=True)
    is_param = (jnp.arange(len(names)) == 0)[None, :, None]
    unjudged = overflowed | (lost[:, None, :] & is_param)
    judged = there & ~unjudged
    eta = jnp.where(judged, eta, 0.0)
    power = jnp.where(judged[:, None] & jnp.isfinite(power), power, 0.0)
    return Compared(eta, exact, judged, unjudged & there, jnp.max(power, axis=(0, 2, 3), initial=0.0))


@partial(jax.jit, static_argnums=(0, 1), compiler_options=COMPILED_FAST)
def compare_with_power(rule: Rule, flags: Flags, inputs: Inputs) -> Compared:
    """`compare` with the power of every hyperparameter, compiled: once for each rule and flags."""
    return compare(rule, flags, inputs, tried=rule.matters(flags))


def judge(rule: Rule, flags: Flags, inputs: Inputs) -> Judged:
    """Compare a batch of recorded rows with the rule; what each row comes to.

    The summing up is NumPy's: every reduction that XLA has to compile costs more than it saves.
    """
    found: Compared = jax.device_get(compare_with_power(rule, flags, inputs))
    element = np.argmax(found.eta, axis=2)
    recorded = np.stack([inputs.recorded[name] for name in (PARAM, *rule.slots(flags))], axis=1)

    def at_worst(array: NDArray[Any]) -> NDArray[Any]:
        return np.take_along_axis(array, element[:, :, None], axis=2)[:, :, 0]

    return Judged(
        eta=at_worst(np.asarray(found.eta)),
        element=element,
        expected=at_worst(np.asarray(found.exact)),
        recorded=at_worst(recorded),
        over=np.sum(~(np.asarray(found.eta) <= FAIL), axis=2),
        checked=np.sum(found.judged, axis=2),
        out_of_range=np.sum(found.out_of_range, axis=2),
        power={name: float(found.power[i]) for i, name in enumerate(rule.matters(flags))},
    )
