"""How others compare optimizers: two run freely for some steps, and the end of one is compared with the end of the other."""

from collections.abc import Callable, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tests.crosscheck.generated.runs import Case, build
from tests.crosscheck.generated.trajectory import take_steps

End = Mapping[str, Tensor]
"""The parameters of a run by name, and its state by `tensor/slot`."""


def torch_testing(end: End, right: End) -> bool:
    """Whether `torch.testing.assert_close` accepts parameters and state, with its defaults for the format."""
    try:
        for name, value in right.items():
            torch.testing.assert_close(end[name], value)
    except AssertionError:
        return False
    return True


def numpy_allclose(end: End, right: End) -> bool:
    """Whether `numpy.allclose` accepts parameters and state, with its defaults."""
    with np.errstate(all="ignore"):
        return all(np.allclose(_float64(end[name]), _float64(value)) for name, value in right.items())


def norms(end: End, right: End) -> bool:
    """Whether the norm of each parameter is within 1 %."""
    pairs = [(_float64(end[name]), _float64(value)) for name, value in right.items() if "/" not in name]
    return all(abs(np.linalg.norm(a) - np.linalg.norm(b)) <= 0.01 * np.linalg.norm(b) for a, b in pairs)


def parameters_within(end: End, right: End) -> bool:
    """Whether each parameter is within 5e-4."""
    pairs = [(_float64(end[name]), _float64(value)) for name, value in right.items() if "/" not in name]
    with np.errstate(all="ignore"):
        return all(bool(np.all(np.abs(a - b) <= 5e-4)) for a, b in pairs)


def same_bits(end: End, right: End) -> bool:
    """Whether all numbers are the same; one NaN is as good as another."""
    return all(np.array_equal(_float64(end[name]), _float64(value), equal_nan=True) for name, value in right.items())


TOLERANCES: Mapping[str, Callable[[End, End], bool]] = {
    "norm of each parameter within 1 %": norms,
    "parameters within 5e-4": parameters_within,
    "`torch.testing.assert_close`, defaults, with the state": torch_testing,
    "`numpy.allclose`, defaults, with the state": numpy_allclose,
    "bit for bit, against the other implementation": same_bits,
}
"""Each compares with a correct run by another of torch's implementations."""
SECOND_RUN = "bit for bit, against a second run of the same"


def accepted_by(case: Case, end: End) -> set[str]:
    """Return the names of the tolerances that accept the end of a run."""
    other = {"foreach": False, "fused": case.setting.implementation != "fused"}
    right = _end(Case(case.seed, case.setting, ()), other)
    accepted = {name for name, accepts in TOLERANCES.items() if accepts(end, right)}
    return accepted | ({SECOND_RUN} if same_bits(end, _end(case)) else set())


def _end(case: Case, implementation: dict[str, bool] | None = None) -> End:
    parameters = case.setting.parameters()
    return take_steps(case.setting, build(case, parameters, implementation), parameters, watch=False).end


def _float64(tensor: Tensor) -> NDArray[np.float64]:
    return tensor.double().numpy()
