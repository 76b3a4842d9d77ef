"""A number that is read late is the one that the device had."""

import math
from contextlib import nullcontext

import pytest
import torch

from distrib.training.metrics.late_number import LateNumber


def test_it_is_the_number_itself() -> None:
    assert LateNumber(torch.tensor(0.25)).read() == 0.25


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_none(value: float) -> None:
    assert LateNumber(torch.tensor(value)).read() is None


@pytest.mark.parametrize("error", [RuntimeError("a mistake of ours"), torch.AcceleratorError("CUDA error: assert")])
def test_only_a_device_that_has_failed_has_no_number(monkeypatch: pytest.MonkeyPatch, error: RuntimeError) -> None:
    def fail(_: object) -> float:
        raise error

    late = LateNumber(torch.tensor(0.25))
    monkeypatch.setattr(torch.Tensor, "__float__", fail)
    with nullcontext() if isinstance(error, torch.AcceleratorError) else pytest.raises(RuntimeError, match="ours"):
        assert late.read() is None
