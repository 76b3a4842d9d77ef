"""In the tests, an array of another shape or dtype than its type says is refused."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from jaxtyping import TypeCheckError, config

from crosscheck.criterion.elementwise import judge
from crosscheck.criterion.stochastic import estimate
from crosscheck.float64 import float64
from crosscheck.rules.inputs import one_step
from tests.crosscheck.criterion.test_elementwise import AFTER, BEFORE, BUFFER, MOMENTUM, ROWS, SGD, SGD_H, WIDTH, batch

INPUTS = batch(BEFORE, AFTER, SGD_H)


@pytest.fixture(autouse=True)
def checked_in_every_case() -> None:
    """Have the types checked in every case here, not in the first of each test only (tests/conftest.py)."""
    config.update("jaxtyping_disable", False)


def with_slot(width: int) -> Mapping[str, Any]:
    return {**INPUTS.values, BUFFER: np.zeros((ROWS, width))}


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("width", np.full(ROWS + 1, WIDTH, np.int32)),
        ("width", np.full(ROWS, float(WIDTH))),
        ("values", with_slot(WIDTH + 1)),
        ("values", with_slot(1)),
        ("floor", np.zeros((ROWS, 3))),
        ("floor", np.zeros(ROWS)),
        ("compute_error", np.zeros((ROWS, 2), np.float32)),
        ("hyperparameters", {**INPUTS.hyperparameters, "sign": np.ones(ROWS - 1)}),
    ],
)
def test_inputs_of_another_shape_or_dtype_are_refused(name: str, array: Any) -> None:
    with pytest.raises(TypeCheckError, match=f"parameter '{name}'"):
        replace(INPUTS, **{name: array})


def test_what_is_compiled_is_checked_in_float64() -> None:
    """Without float64, JAX turns the inputs into float32."""
    with pytest.raises(TypeCheckError, match="'values'"):
        judge(SGD, MOMENTUM, INPUTS)
    with float64():
        judge(SGD, MOMENTUM, INPUTS)


def test_a_step_of_whole_batches_is_refused() -> None:
    """One step is of one row: its arrays have no axis of rows."""
    absent = {BUFFER: np.zeros((), np.bool_)}
    with float64():
        with pytest.raises(TypeCheckError, match="parameter 'values'"):
            one_step(SGD, MOMENTUM, SGD_H, {}, absent, INPUTS.values)
        one_step(SGD, MOMENTUM, SGD_H, {}, absent, {name: rows[0] for name, rows in INPUTS.values.items()})


def test_errors_of_another_tensor_are_refused() -> None:
    with pytest.raises(TypeCheckError, match="parameter 'errors'"):
        estimate(np.zeros((3, 4)), np.zeros((16, 4, 3)), 1e-8, 1e-38)


def test_inputs_of_the_right_shapes_are_taken() -> None:
    assert replace(INPUTS, values=with_slot(WIDTH)).width.sum() == ROWS * WIDTH
