"""What a mistake is, and those that one can make with every optimizer."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import optax

from crosscheck.rules.inputs import Inputs
from crosscheck.rules.rule import Flags, Hyperparameters, Rule

Chain = Callable[[Any, Hyperparameters], optax.GradientTransformation]
WrongFormula = tuple[str, Chain]
"""A sentence, and the formula that is taken for the right one: in the same pieces and with the same state."""


class WrongInputs(NamedTuple):
    """A mistake that leaves the formula itself alone."""

    sentence: str
    flags: Flags
    inputs: Inputs  # with these and the flags the formula makes what was recorded, if the sentence is true


class Mistakes(NamedTuple):
    """All mistakes that are known of a rule."""

    inputs: Callable[[Any, Inputs], Iterator[WrongInputs]]
    """From flags and inputs: what may have gone into the formula instead."""
    formulas: Callable[[Any], Iterable[WrongFormula]] = lambda _: ()
    """From flags: what is taken for the formula, if there is something."""

    def rules(self, rule: Rule[Any], flags: Flags) -> Iterator[tuple[str, Rule[Any]]]:
        """Yield a sentence and the rule that it makes of `rule`, for every formula that these flags leave room for."""
        for sentence, chain in self.formulas(flags):
            yield sentence, replace(rule, chain=chain)


def with_numbers(inputs: Inputs, **new: Any) -> Inputs:
    """Return the inputs with other hyperparameters."""
    return replace(inputs, hyperparameters={**inputs.hyperparameters, **new})


def with_values(inputs: Inputs, **new: Any) -> Inputs:
    """Return the inputs with other elements, such as those of the gradient or a slot."""
    return replace(inputs, values={**inputs.values, **new})


def wrong_gradient(flags: Flags, inputs: Inputs) -> Iterator[WrongInputs]:
    """Yield what may be wrong with the gradient."""
    grad, scale = inputs.values["grad"], inputs.hyperparameters["loss_scale"][:, None]
    turned = with_numbers(inputs, sign=-inputs.hyperparameters["sign"])
    yield WrongInputs("the gradient is used with the wrong sign (maximize)", flags, turned)
    if (scale != 1).any():
        twice, never = with_values(inputs, grad=grad / scale), with_values(inputs, grad=grad * scale)
        yield WrongInputs("the gradient is divided by the loss scale twice", flags, twice)
        yield WrongInputs("the gradient is not divided by the loss scale", flags, never)


def late_rate(flags: Flags, inputs: Inputs) -> Iterator[WrongInputs]:
    """Yield that the learning rate is an old one."""
    lr, last = inputs.hyperparameters["lr"], inputs.hyperparameters["last_lr"]
    if (lr != last).any():
        yield WrongInputs("lr is that of the step before", flags, with_numbers(inputs, lr=last))


def wrong_decay(flags: Flags, without: Flags, inputs: Inputs) -> Iterator[WrongInputs]:
    """Yield what may be wrong with the size of the weight decay. `without`: the flags of no decay."""
    decay, lr = inputs.hyperparameters["weight_decay"], inputs.hyperparameters["lr"]
    yield WrongInputs("weight decay is missing", without, inputs)
    times_lr = with_numbers(inputs, weight_decay=decay * lr)
    yield WrongInputs("weight decay is multiplied by lr once too often", flags, times_lr)


def decay_of_new_parameters(chain: Chain, without: Callable[[Any], Any]) -> Chain:
    """Return the chain that takes the step first, and then the decay of what it made, of arrays.

    `without` makes of flags those of no decay.
    """

    def mistaken(flags: Flags, h: Hyperparameters) -> optax.GradientTransformation:
        bare = chain(without(flags), h)
        shrink = h["lr"] * h["weight_decay"]

        def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
            updates, state = bare.update(updates, state, params)
            return updates - shrink * (params + updates), state

        return optax.GradientTransformation(bare.init, update)

    return mistaken
