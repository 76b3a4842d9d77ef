"""How far rounding alone can take a step from its formula, and where error begins."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from crosscheck.trace.format import DType, TensorInfo

WARN = 16.0
"""Beyond this a step is worth a look. The most that correct single, foreach and fused kernels showed over every
flag, dtype and gradient regime of the atlas is below it, and so are thousand-step recordings of real training."""
FAIL = 32.0
"""Beyond this a step is wrong. The weakest of the planted formula errors in this project's tests stands well above
it (tests/crosscheck/test_planted.py); between the two lies rounding nobody has seen yet, hence the warning."""


@dataclass(frozen=True, slots=True)
class Format:
    """A floating-point format."""

    unit_roundoff: float  # largest relative error of rounding to nearest
    floor: float  # below it rounding errors are absolute: the smallest normal number; of float16 half the smallest one
    largest: float  # largest finite number


FORMATS: dict[DType, Format] = {
    "float64": Format(2.0**-53, 2.0**-1022, (2 - 2.0**-52) * 2.0**1023),
    "float32": Format(2.0**-24, 2.0**-126, (2 - 2.0**-23) * 2.0**127),
    "bfloat16": Format(2.0**-8, 2.0**-126, (2 - 2.0**-7) * 2.0**127),
    "float16": Format(2.0**-11, 2.0**-25, 65504.0),
}


def roundoffs(recorded: float, expected: float) -> float:
    """Return how far a float64 number is from what it should be, in roundoffs of that; infinite if that is not a number."""
    with np.errstate(all="ignore"):
        eta = float(np.abs(np.float64(recorded) - expected) / np.abs(np.float64(expected))) * 2.0**53
    return float("inf") if np.isnan(eta) else eta


def trial_error(unit_roundoff: Any) -> Any:
    """Return how wrong a hyperparameter is made to see whether it would show: 1 %, or what the format can tell apart.

    A parameter and its change both count as inputs, so an error must exceed 2 FAIL roundoffs of the change to
    show: 25 % in bfloat16, 3 % in float16. Twice that is tried there.
    """
    return np.maximum(0.01, 4 * FAIL * unit_roundoff)


@dataclass(frozen=True, slots=True)
class Profile:
    """The arithmetic of an implementation, as far as it differs from the formats of its tensors."""

    name: str
    rounds_hyperparameters: bool = False  # lr, betas, eps, weight decay are cast to float32 before use
    rounds_between: bool = True  # every operation stores its result in the format of its tensors
    scalar_error: float = 0.0  # relative error of what is computed once a tensor: powers of beta, a norm; 0: float64
    beta_error: float = 0.0  # relative error of beta itself in its powers, beyond `rounds_hyperparameters`


def profile_of(tensor: TensorInfo, options: Mapping[str, object]) -> Profile:
    """Return the arithmetic that was recorded. Sources: torch/optim/adam.py and ATen's fused_adam_utils.cuh.

    The fused kernels on a GPU compute in float64 for float64 tensors and in float32 for all others; hyperparameters
    are cast to that before use, so 1 - beta2 for 0.999 is off by 1.3e-5 against the formula as written, and exact
    for the beta that was used. tests/crosscheck/test_cuda_host.py holds the kernel of Adam, compiled for a CPU,
    against this profile. It is the arithmetic of torch 2.11 and later; before, the kernels computed in float64.
    """
    if tensor.implementation == "fused" and tensor.device != "cpu":
        wide = tensor.dtype == "float64"
        return Profile(
            f"fused on {tensor.device}",
            rounds_hyperparameters=not wide,
            rounds_between=False,
            scalar_error=FORMATS["float64" if wide else "float32"].unit_roundoff,
        )
    for which in ("compiled", "capturable", "differentiable"):  # each keeps `step` a tensor
        if options.get(which):
            single = FORMATS["float32"].unit_roundoff
            name = f"{tensor.implementation} on {tensor.device}, {which}"
            return Profile(name, scalar_error=single, beta_error=single)
    return Profile(f"{tensor.implementation} on {tensor.device}", rounds_between=tensor.implementation != "fused")
