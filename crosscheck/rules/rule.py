"""What a rule is: the formula of a torch optimizer as an Optax chain, and where its state lives on either side."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import optax
from jaxtyping import Float64, Int32

from crosscheck.errors import TraceError
from crosscheck.rules.arrays import Array, Number
from crosscheck.trace.format import GRAD, PARAM, TensorInfo

Options = Mapping[str, Any]
"""The options of a torch parameter group at one step."""
Hyperparameters = Mapping[str, Number]
"""Numbers or traced scalars, by name; what a compiled step takes as input."""
Flags = Any
"""What selects the shape of a formula, as opposed to its numbers: each rule has a frozen type of its own."""
Column = Float64[Array, "rows 1"]
"""A number for each row of a batch, that goes with every element of the row."""
Columns = Mapping[str, Column]
Counts = Mapping[str, Int32[Array, "rows 1"]]
CorrectionError = Callable[[Columns, Counts, Column, Column], Column]
Interval = tuple[Float64[Array, "rows width"], Float64[Array, "rows width"]]
"""How far below and how far above its exact value a number may be; either may be infinite."""
Values = Mapping[str, Float64[Array, "rows width"]]
Errors = Mapping[str, Float64[Array, "rows _"]]
"""By output: how far it may be off, of each row or of each element."""
SpreadFunction = Callable[[Columns, Counts, Values, Errors, Errors], Interval]
Cancellation = Callable[[Columns, Values, Column], Mapping[str, Float64[Array, "rows width"]]]
F = TypeVar("F")
Shape = tuple[int, ...]


def like_parameter(shape: Shape) -> Shape:
    """Return the shape of a slot that has a number for each element of the parameter."""
    return shape


def one_count(shape: Shape) -> Shape:
    """Return the shape of a slot that is one number a tensor: how many steps it has taken."""
    del shape
    return ()


@dataclass(frozen=True, slots=True)
class Absent:
    """The start of a slot that torch makes in a tensor's first step: before it there is none."""

    field: str
    """Of the Optax state: it is true until the first step."""
    harmless_unless: str
    """An option of torch: while it is zero, a slot of zeros is as good as none."""
    otherwise: str
    """What becomes of the first step where a slot of zeros is there and the option is not zero."""


@dataclass(frozen=True, slots=True)
class Slot:
    """A part of torch's state: where Optax keeps the same numbers, of what shape they are, and what they start from."""

    field: str
    """Of the Optax state."""
    shape: Callable[[Shape], Shape] = like_parameter
    """From the shape of the parameter to that of the slot."""
    start: float | Absent = 0.0
    stores: int = 1
    """How many operations of torch's unfused kernels store a number of the slot's size in a step."""


def _once(flags: Any) -> int:
    del flags
    return 1


def _never(flags: Any) -> bool:
    del flags
    return False


def _nothing(flags: Any) -> tuple[str, ...]:
    del flags
    return ()


def _nothing_own(flags: Any, h: Mapping[str, float]) -> tuple[str, ...]:
    del flags, h
    return ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Rule(Generic[F]):
    """One torch optimizer as an Optax chain. `F` is the type of its flags."""

    name: str
    flags: Callable[[Options], F]
    hyperparameters: Callable[[Options], dict[str, float]]
    chain: Callable[[F, Hyperparameters], optax.GradientTransformation]
    hyperparameters_read: Callable[[F], tuple[str, ...]]  # by the formula, under these flags
    slots: Mapping[str, Slot] = field(default_factory=dict[str, Slot], hash=False)  # by torch's name
    unused: Callable[[F], Collection[str]] = _nothing  # slots that torch does not have under these flags
    own: Callable[[F, Mapping[str, float]], tuple[str, ...]] = _nothing_own  # pieces that are ours, not Optax's
    stock: Callable[[F, Options], optax.GradientTransformation] | None = None
    """What one would take from Optax at first sight: the alias of the same name, with the arguments that it has."""
    check: str = "optimizer"  # the check of a report that the rule answers
    formula: Callable[[F, Mapping[str, float], bool], tuple[str, ...]]
    """The formula in words that Python reads, a line a step, from flags, hyperparameters and whether a slot is yet to be made.

    Reports show it. In it `t` is the count of this step.
    """
    moved: str = PARAM  # what reports call the thing that moves
    reads: str = GRAD  # what they call the thing that it moves by
    complaint: str = "{output} is not what {rule} makes of the recorded inputs"
    extras: tuple[str, ...] = ()  # what the formula does not read, elementwise, but a mistake may
    # How many operations of torch's unfused kernels store a number of the parameter's size.
    stores: Callable[[F], int] = _once
    complemented: tuple[str, ...] = ()  # hyperparameters b that act by 1 - b; an error of theirs is relative to that
    correction_error: CorrectionError | None = None
    """Relative error of the update from what is computed once a tensor: Adam's bias corrections, a clipping norm.

    Takes hyperparameters, counts, and the relative errors of such a number (a power of beta, the norm) and of beta itself.
    """
    spread: SpreadFunction | None = None
    """Where the parameter may be when the state and the divisor of its step are off by more than their derivatives can tell.

    Takes hyperparameters, counts, exact state after the step, how far each may be off, and how far rounding may take each beside.
    The last decides only whether all of the divisor may be lost: in a small sum of large numbers rounding alone decides the sign.
    """
    decays_gradient: Callable[[F], bool] = _never
    """Whether weight decay is added to the gradient before the state takes it in. The sum is stored in the parameter's format."""
    cancellation: Cancellation | None = None
    """How far each slot may be off where gradient and weight decay cancel in their sum, beyond what its derivatives tell.

    Takes hyperparameters, the numbers before the step, and the relative error of either.
    """

    @property
    def of_parameters(self) -> bool:
        """Return whether the rule moves parameters, each by the options of its group; others have one set of options."""
        return self.moved == PARAM

    def group_of(self, tensor: TensorInfo) -> int:
        """Return the group by whose options the rule moves a tensor."""
        return tensor.group if self.of_parameters else 0

    def state(self, flags: F) -> dict[str, Slot]:
        """Return the slots that torch has under these flags."""
        unused = self.unused(flags)
        return {name: slot for name, slot in self.slots.items() if name not in unused}

    def elementwise(self, flags: F) -> dict[str, Slot]:
        """Return the slots that have a number for each element."""
        return {name: slot for name, slot in self.state(flags).items() if slot.shape is not one_count}

    def counts(self, flags: F) -> dict[str, Slot]:
        """Return the slots that count steps."""
        return {name: slot for name, slot in self.state(flags).items() if slot.shape is one_count}

    def absent_at_first(self, flags: F) -> dict[str, Absent]:
        """Return how each slot that torch makes in the first step starts."""
        return {name: slot.start for name, slot in self.state(flags).items() if isinstance(slot.start, Absent)}

    def starts_from_zero(self, name: str) -> bool:
        """Return whether a slot of zeros is as good as none. One that the rule does not know starts as its others do."""
        known = [self.slots[name]] if name in self.slots else self.slots.values()
        return all(slot.start == 0 for slot in known)


def number(options: Options, name: str) -> float:
    """Return an option as float64. Raises TraceError if it is not there."""
    value = options.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TraceError(f"the option {name!r} of a parameter group is {value!r}; the rule needs a number")
    try:
        return float(value)
    except OverflowError:
        raise TraceError(f"the option {name!r} of a parameter group is beyond float64") from None


def flag(options: Options, name: str) -> bool:
    """Return an option that is on or off; torch versions without it mean off."""
    return bool(options.get(name, False))


def signed_gradient(h: Mapping[str, float]) -> str:
    """Return what a formula calls the gradient in the direction of descent."""
    return "-grad" if h["sign"] < 0 else "grad"
