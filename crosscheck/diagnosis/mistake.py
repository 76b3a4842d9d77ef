"""What a mistake is, and those that one can make with every optimizer."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import cache
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import optax

from crosscheck.rules.inputs import Inputs
from crosscheck.rules.rule import Flags, Hyperparameters

NARROW: dict[str, Any] = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}
"""The formats that something may have been rounded to by mistake, from the finest on."""
Chain = Callable[[Any, Hyperparameters], optax.GradientTransformation]
WrongFormula = tuple[str, Chain]
"""A sentence, and the formula that is taken for the right one: in the same pieces and with the same state."""
STILL = "the parameter does not move (another tensor may have taken its place)"
DECAY_TWICE = "weight decay is applied twice (for example once for each of two dtypes)"
DECAY_THRICE = "weight decay is applied three times (for example once for each of three dtypes)"
DECAY_LATE = "weight decay is added after the momentum instead of to the gradient"
DECAY_NEW = "weight decay is taken from the new parameters"
DECAY_CONSTANT = "weight decay subtracts a constant instead of a part of the parameter"


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
    decays: Callable[[Any], Iterable[tuple[str, Any]]] = lambda _: ()
    """From flags of a step without weight decay: each kind that may have been used nevertheless, as a word, and its flags."""
    pairs: Callable[[Any], Iterable[WrongFormula]] = lambda _: ()
    """From flags: two such mistakes at once, where one formula can hold both."""


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
    for name, narrow in NARROW.items():
        rounded = grad.astype(narrow).astype(np.float64)
        if (rounded != grad).any():
            yield WrongInputs(f"the gradient is rounded to {name}", flags, with_values(inputs, grad=rounded))


def rounded_numbers(flags: Flags, inputs: Inputs, names: Iterable[str]) -> Iterator[WrongInputs]:
    """Yield that hyperparameters are rounded to float32, as CUDA's fused kernels do: lr alone, or all of `names`."""
    h = {name: inputs.hyperparameters[name].astype(np.float32).astype(np.float64) for name in names}
    for sentence, new in (("lr is rounded to float32", {"lr": h["lr"]}), ("hyperparameters are rounded to float32", h)):
        if any((number != inputs.hyperparameters[name]).any() for name, number in new.items()):
            yield WrongInputs(sentence, flags, with_numbers(inputs, **new))


def late_rate(flags: Flags, inputs: Inputs) -> Iterator[WrongInputs]:
    """Yield that the learning rate is an old one."""
    lr, last = inputs.hyperparameters["lr"], inputs.hyperparameters["last_lr"]
    if (lr != last).any():
        yield WrongInputs("lr is that of the step before", flags, with_numbers(inputs, lr=last))


def wrong_decay(flags: Flags, without: Flags, inputs: Inputs, *, decoupled: bool) -> Iterator[WrongInputs]:
    """Yield what may be wrong with the size of the weight decay. `without`: the flags of no decay."""
    decay, lr = inputs.hyperparameters["weight_decay"], inputs.hyperparameters["lr"]
    yield WrongInputs("weight decay is missing", without, inputs)
    times_lr = with_numbers(inputs, weight_decay=decay * lr)
    yield WrongInputs("weight decay is multiplied by lr once too often", flags, times_lr)
    yield WrongInputs(DECAY_TWICE, flags, with_numbers(inputs, weight_decay=2 * decay))
    for times, sentence in ((2, DECAY_TWICE), (3, DECAY_THRICE)):
        if decoupled and (lr != 0).all():
            # Each time what is left shrinks by 1 - lr wd.
            repeated = with_numbers(inputs, weight_decay=(1 - (1 - lr * decay) ** times) / lr)
            yield WrongInputs(sentence, flags, repeated)


def and_then(chain: optax.GradientTransformation, change: Callable[[Any], Any]) -> optax.GradientTransformation:
    """Return the chain with an addition to its update that depends on the parameters: `change(new parameters)`."""

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        updates, state = chain.update(updates, state, params)
        return updates + change(params + updates), state

    return optax.GradientTransformation(chain.init, update)


def add_constant(number: Any) -> optax.GradientTransformation:
    """Return what adds a number to each update."""
    return optax.stateless(lambda updates, _: updates + number)


@cache
def still(chain: Chain) -> tuple[WrongFormula, ...]:
    """Return the formulas that leave the parameter as it is, with the state moving or not."""

    def without_update(state_moves: bool) -> Chain:
        def mistaken(flags: Flags, h: Hyperparameters) -> optax.GradientTransformation:
            right = chain(flags, h)

            def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
                _, new = right.update(updates, state, params)
                return 0.0 * updates, new if state_moves else state

            return optax.GradientTransformation(right.init, update)

        return mistaken

    return (STILL, without_update(True)), (STILL, without_update(False))
