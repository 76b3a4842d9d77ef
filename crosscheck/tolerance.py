"""How far rounding alone can take a step from its formula, and where error begins."""

from dataclasses import dataclass

import numpy as np

from crosscheck.trace.format import DType

WARN = 4.0
"""Beyond this a report warns. Correct single, foreach and fused kernels reached at most 2.1 on CPUs, over every flag, dtype and
gradient regime of the atlas and in thousand-step recordings of real training (docs/criterion.md)."""
FAIL = 8.0
"""Beyond this a step is wrong. The smallest eta of a generated mistake that was found is 9.6 (docs/criterion.md)."""
OCTAVES = range(-6, 11)
"""Reports count etas between powers of two with these exponents, WARN and FAIL among them."""


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


def roundoffs(recorded: float, expected: float, unit_roundoff: float = FORMATS["float64"].unit_roundoff) -> float:
    """Return how far a number is from what it should be, in roundoffs of that; infinite if that is not a number."""
    with np.errstate(all="ignore"):
        eta = float(np.abs(np.float64(recorded) - expected) / np.abs(np.float64(expected))) / unit_roundoff
    return float("inf") if np.isnan(eta) else eta
