"""Composes the rules of all parameter groups into one Optax transformation, which steps as the whole torch optimizer does."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import optax
from jaxtyping import Bool

from crosscheck.rules.arrays import Array
from crosscheck.rules.rule import Options, Rule


def compose(
    rule: Rule[Any], groups: Sequence[Options], group_of: Mapping[str, int]
) -> optax.GradientTransformationExtraArgs:
    """Return the Optax transformation over `{name: array}` that steps as torch does, in the arithmetic of its inputs.

    Args:
        rule: One of `crosscheck.rules.RULES`.
        groups: Options of the parameter groups, in torch's names.
        group_of: The group of each tensor.

    torch skips a tensor without gradient: no decay, no count. Hand such a tensor a gradient of zeros and say
    so: `update(grads, state, params, present={name: False, …})`; names that are left out are present. Each
    tensor has a state of its own, because torch counts steps and first gradients tensor by tensor.
    """

    def is_present(
        name: str, step: Any, *, present: Mapping[str, bool | Bool[Array, ""]] | None = None, **_: Any
    ) -> bool | Bool[Array, ""]:
        del step
        return True if present is None else present.get(name, True)

    def transformation(name: str) -> optax.GradientTransformation:
        options = groups[group_of[name]]
        chain = rule.chain(rule.flags(options), rule.hyperparameters(options))
        return optax.transforms.conditionally_mask(chain, partial(is_present, name), forward_extra_args=True)

    return optax.partition({name: transformation(name) for name in group_of}, {name: name for name in group_of})
