"""A fitted number is as exact as its error says."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from crosscheck import Recorder, replay
from crosscheck.diagnosis.numbers import in_units, least_squares, with_error
from crosscheck.diagnosis.trial import Candidate
from crosscheck.float64 import float64
from crosscheck.tolerance import FORMATS
from tests.crosscheck.criterion.test_elementwise import MOMENTUM, ROWS, SGD, SGD_H, WIDTH, batch

CASES = 20


def recorded(wrong: str, factor: float, dtype: torch.dtype, options: dict[str, Any], trace: Path) -> None:
    """Record a few steps of AdamW that uses another number than its options say. Of a beta the factor goes with 1 - beta."""
    b1, b2 = options["betas"]
    betas = {"beta1": (1 - (1 - b1) * factor, b2), "beta2": (b1, 1 - (1 - b2) * factor)}

    class Wrong(torch.optim.AdamW):
        def step(self, closure: Any = None) -> Any:
            (group,) = self.param_groups
            name = "betas" if wrong in betas else wrong
            said = group[name]
            group[name] = betas[wrong] if wrong in betas else said * factor
            super().step(closure)
            group[name] = said

    parameter = torch.nn.Parameter(torch.randn(300, dtype=torch.float64).to(dtype))
    optimizer = Wrong([parameter], **options)
    with Recorder(optimizer, trace, rule="adamw", steps="all"):
        for size in (1.0, 0.1, 0.01, 0.3, 0.001, 1.0, 0.03, 0.5):
            parameter.grad = (torch.randn(300, dtype=torch.float64) * size).to(dtype)
            optimizer.step()


def test_nineteen_of_twenty_numbers_lie_within_their_error(tmp_path: Path, samples: list[Candidate]) -> None:
    draw = random.Random(0)  # noqa: S311 (no secret)
    torch.manual_seed(0)
    fitted = outside = 0
    for case in range(CASES):
        wrong, factor = draw.choice(["lr", "beta1", "beta2", "weight_decay"]), 1 + 10 ** draw.uniform(-3, -0.3)
        dtype = draw.choice([torch.float32, torch.float64, torch.bfloat16])
        betas = (draw.choice([0.8, 0.9, 0.95]), draw.choice([0.95, 0.99, 0.999]))
        options = {"lr": 10 ** draw.uniform(-4, -1), "betas": betas, "weight_decay": 10 ** draw.uniform(-2, -0.5)}
        samples.clear()
        recorded(wrong, factor, dtype, options, tmp_path / str(case))
        replay(tmp_path / str(case))
        if samples:  # the error shows
            with float64(), np.errstate(all="ignore"):
                (fit,) = least_squares(samples[0], [(wrong,)])
            assert fit is not None
            fitted += 1
            outside += not abs(fit.factors[0] - factor) <= fit.errors[0]
    assert fitted >= CASES / 2
    assert outside <= fitted / 20


def test_residuals_are_in_roundoffs_of_their_own_output() -> None:
    """JAX hands back dictionaries in the order of their names, which is not that of the criterion's arrays."""
    formats = [FORMATS["bfloat16"], FORMATS["float32"]]  # of the parameter and of its buffer
    largest = np.array([[format_.largest for format_ in formats]] * ROWS)
    before = {"param": 1.0, "grad": 0.5, "momentum_buffer": 1.0}
    recorded = {"param": 1 + 2**-6, "momentum_buffer": 1 + 2**-22}
    inputs = batch(before, recorded, SGD_H, largest=largest, floor=np.zeros((ROWS, 2)))
    made = {"momentum_buffer": np.ones((ROWS, WIDTH)), "param": np.ones((ROWS, WIDTH))}
    residual, slopes = in_units(Candidate("", SGD, MOMENTUM, inputs), made, [made])
    np.testing.assert_allclose(residual[0, [0, -1]], [4 / 3, 4 / 3], rtol=0.01)
    np.testing.assert_allclose(slopes[0, 0, [0, -1]], [2**8 / 3, 2**24 / 3], rtol=0.01)


@pytest.mark.parametrize(
    ("value", "error", "said"),
    [
        (1.1, 0.001, "1.100 ± 0.001"),
        (1.1, 0.0011, "1.100 ± 0.002"),
        (-1.00000002, 3e-8, "-1.00000002 ± 0.00000003"),
        (904.3, 312.0, "904 ± 400"),
        (1.0, 0.0, "1 ± 0"),
    ],
)
def test_a_number_is_told_to_the_digit_of_its_error(value: float, error: float, said: str) -> None:
    assert with_error(value, error) == said
