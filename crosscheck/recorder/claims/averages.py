"""Reads from torch.optim.swa_utils.AveragedModel which kind of average it claims, and of which parameters."""

import inspect
from typing import Any, Literal

from torch import Tensor
from torch.nn import Module
from torch.optim import swa_utils
from torch.optim.swa_utils import AveragedModel

from crosscheck.errors import TraceError

EQUAL: Literal["equal"] = "equal"


def kind_of_average(averaged: AveragedModel, claimed: float | str | None) -> float | str:
    """Return the decay of an exponential average, or `equal`.

    The decay is in the closure of the function that torch made. Of a function of the user's own it is what is `claimed`;
    raises TraceError if nothing is.
    """
    function: Any = averaged.multi_avg_fn or averaged.avg_fn
    inner: Any = None if function is None else inspect.unwrap(function)
    if inner is None or (inner.__module__ == swa_utils.__name__ and inner.__name__ == "swa_update"):
        return EQUAL
    decay = inspect.getclosurevars(inner).nonlocals.get("decay") if inner.__module__ == swa_utils.__name__ else claimed
    if decay is None:
        raise TraceError(
            f"average: the AveragedModel averages by a function of your own ({getattr(inner, '__qualname__', inner)}), and "
            "nothing tells its decay; name it as claims=Claims(average=0.99), or as Claims(average='equal')"
        )
    return decay


def pairs_of(averaged: AveragedModel, model: Module | None) -> list[tuple[Tensor, Tensor]]:
    """Return each parameter with its average. Raises TraceError if nothing tells which parameter an average is of."""
    if model is None:
        raise TraceError(
            "average: which parameter is averaged by which tensor is told by the model; give model= as well"
        )
    given, means = list(model.parameters()), list(averaged.module.parameters())
    if [parameter.shape for parameter in given] != [mean.shape for mean in means]:
        raise TraceError(
            f"average: the AveragedModel has {len(means)} parameters and model= has {len(given)}, or their shapes differ; "
            "give the model that it was made of"
        )
    return list(zip(given, means, strict=True))
