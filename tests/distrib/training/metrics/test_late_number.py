"""A number that is read late is the one that the device had."""

import math

import pytest
import torch

from distrib.training.metrics.late_number import LateNumber


def test_it_is_the_number_itself() -> None:
    assert LateNumber(torch.tensor(0.25)).read() == 0.25


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_none(value: float) -> None:
    assert LateNumber(torch.tensor(value)).read() is None
