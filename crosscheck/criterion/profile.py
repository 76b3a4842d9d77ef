"""The arithmetic of an implementation: in which format it computes, and how often it stores what it computes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from crosscheck.tolerance import FORMATS
from crosscheck.trace.format import ROUNDOFF_OF, DType, TensorInfo

_SINGLE = FORMATS["float32"]


@dataclass(frozen=True, slots=True)
class Profile:
    """The arithmetic of an implementation, as far as it differs from the formats of its tensors."""

    name: str
    rounds_hyperparameters: bool = False  # lr, betas, eps, weight decay are cast to float32 before use
    rounds_between: bool = True  # every operation stores its result in the format of its tensors
    rounds_scalars: bool = False  # a number that multiplies a tensor is first rounded to the format of the tensor
    scalar_error: float = 0.0  # relative error of what is computed once a tensor: powers of beta, a norm; 0: float64
    beta_error: float = 0.0  # relative error of beta itself in its powers, beyond `rounds_hyperparameters`
    stochastic: bool = False  # what is stored is one of the two neighbours of the result, drawn at random


def profile_of(tensor: TensorInfo, options: Mapping[str, object], *, stochastic: bool = False) -> Profile:
    """Return the arithmetic that was recorded. Sources: torch/optim/adam.py and ATen's fused_adam_utils.cuh.

    The fused kernels on a GPU compute in float64 for float64 tensors and in float32 for all others; hyperparameters
    are cast to that before use, so 1 - beta2 for 0.999 is off by 1.3e-5 against the formula as written, and exact
    for the beta that was used. tests/crosscheck/test_cuda_host.py holds the kernel of Adam, compiled for a CPU,
    against this profile. It is the arithmetic of torch 2.11 and later; before, the kernels computed in float64.

    A rate or a beta in a tensor makes torch compute in that tensor's format what is computed once a tensor:
    lr / (1 - beta1^t), 1 - lr wd, beta^t (torch/optim/adam.py, `_single_tensor_adam`).

    `stochastic`: a claim that parameters and state are rounded at random to one of their neighbours.
    """
    how = _implementation(tensor, options)
    name = f"{how} on {tensor.device}" + (", rounded at random" if stochastic else "")
    if how == "fused" and tensor.device != "cpu":
        wide = tensor.dtype == "float64"
        return Profile(
            name,
            rounds_hyperparameters=not wide,
            rounds_between=False,
            scalar_error=FORMATS["float64" if wide else "float32"].unit_roundoff,
            stochastic=stochastic,
        )
    for which in ("compiled", "capturable", "differentiable"):  # each keeps `step` a tensor
        if options.get(which):
            single = _SINGLE.unit_roundoff
            return Profile(f"{name}, {which}", scalar_error=single, beta_error=single, stochastic=stochastic)
    tensors = {key.removesuffix(ROUNDOFF_OF): value for key, value in options.items() if key.endswith(ROUNDOFF_OF)}
    errors = [value for value in tensors.values() if isinstance(value, int | float)]
    return Profile(
        f"{name}, {' and '.join(sorted(tensors))} in tensors" if tensors else name,
        rounds_between=how != "fused",
        rounds_scalars=how == "foreach",
        scalar_error=float(max(errors, default=0.0)),
        stochastic=stochastic,
    )


def _implementation(tensor: TensorInfo, options: Mapping[str, object]) -> str:
    """Return how the tensor was stepped: loading a state can take `fused` away after the tensor was first seen."""
    if tensor.implementation == "fused" and options.get("fused", True) in (False, None):
        return "foreach" if options.get("foreach") else "single"
    return "fused" if options.get("fused") else tensor.implementation


@dataclass(frozen=True, slots=True)
class Rounding:
    """How far storing and computing may take one output from its formula: see `Inputs` for the fields."""

    size_error: float
    result_error: float
    lost: float
    compute_error: float
    floor: float
    largest: float


def rounding_of(
    profile: Profile, dtype: DType, stores: int, *, others: Sequence[DType] = (), summed: Sequence[DType] = ()
) -> Rounding:
    """Return the rounding of an output of this format.

    Args:
        profile: The arithmetic that was recorded.
        dtype: The format in which the output is stored.
        stores: How many operations of an unfused kernel store a number of the output's size.
        others: The formats of the state that it is computed from.
        summed: The formats of sums that it takes in. What they lose below their floors is lost for the output, too.

    ATen computes each operation on halves in float32 and rounds its result. A scalar that goes into an operation is
    rounded once: to float32, or to a wider format of the tensor; by the foreach operations on a CPU to the half itself
    (`torch._foreach_mul_` of a bfloat16 tensor by 0.99 multiplies by 0.98828125; torch 2.14.1).
    """
    own = FORMATS[dtype]
    half = own.unit_roundoff > _SINGLE.unit_roundoff
    operation = min(own.unit_roundoff, _SINGLE.unit_roundoff)
    stored = own.unit_roundoff * (2 if profile.stochastic else 1)
    if half and not profile.rounds_between:
        size, result, compute, times = (stores + 1) * operation, stored, operation, 1
    else:
        # A scalar is rounded once; each result of an operation on halves twice, to float32 and to the half.
        scalar = own.unit_roundoff if profile.rounds_scalars else operation
        size = stores * stored + scalar + (stores * operation if half else 0.0)
        result, times = 0.0, stores + 1
        compute = max(FORMATS[each].unit_roundoff for each in (dtype, *others, *summed))
    lost = times * own.floor + sum(FORMATS[each].floor for each in summed if each != dtype)
    size += (stores - 1) * profile.scalar_error  # the factor of the decay, 1 - lr wd, is computed once a tensor
    return Rounding(size, result, lost, compute, own.floor, own.largest)


def is_biased(profile: Profile, dtypes: Sequence[DType]) -> bool:
    """Return whether storing may change all elements alike, rather than each up or down by chance.

    An unfused kernel stores a half after each operation: a second moment of bfloat16, times 0.999 and rounded, is what
    it was, for every element.
    """
    return profile.rounds_between and any(FORMATS[dtype].unit_roundoff > _SINGLE.unit_roundoff for dtype in dtypes)
