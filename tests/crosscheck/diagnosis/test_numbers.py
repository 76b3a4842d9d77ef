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


class FasterBuffer(torch.optim.SGD):
    """SGD whose buffers decay 5 % less than its momentum says; the step with Nesterov's momentum is right."""

    def step(self, closure: Any = None) -> Any:
        for p in (p for group in self.param_groups for p in group["params"]):
            if "momentum_buffer" in self.state[p]:
                self.state[p]["momentum_buffer"] *= 1.05
        super().step(closure)


def test_as_many_numbers_as_equations_are_no_cause(tmp_path: Path) -> None:
    """In one step of a tensor of ones all elements say the same, once of the buffer and once of the parameter.

    So rate and decay together would explain whatever is there. Of a tensor of one element any number explains the buffer.
    """
    gain, single = torch.nn.Parameter(torch.ones(12)), torch.nn.Parameter(torch.full((1,), 0.7))
    optimizer = FasterBuffer(
        [{"params": [gain], "nesterov": True, "weight_decay": 0.1}, {"params": [single], "weight_decay": 1e-4}],
        lr=4e-4,
        momentum=0.9,
    )

    def step() -> None:
        for p in (gain, single):
            p.grad = torch.full_like(p, 0.5)
        optimizer.step()

    step()
    # The hook that records sees the buffer before it is multiplied.
    with Recorder(optimizer, tmp_path, rule="sgd", steps="all"):
        step()
    report = replay(tmp_path)
    assert report.findings[0].slot == "momentum_buffer"
    assert "acts as" not in str(report)
    assert "no mistake of the catalogue explains it" in report.findings[0].cause


def test_more_equations_than_numbers_are_a_cause(tmp_path: Path) -> None:
    """The same mistake of a buffer without Nesterov's momentum, in elements that differ, is a wrong momentum."""
    weight = torch.nn.Parameter(torch.linspace(-1, 1, 12))
    optimizer = FasterBuffer([weight], lr=4e-4, momentum=0.9, weight_decay=0.1)
    with Recorder(optimizer, tmp_path, rule="sgd", steps="all"):
        for size in (0.5, 0.7):
            weight.grad = torch.linspace(size, 1, 12)
            optimizer.step()
    assert "momentum x 1.0500" in replay(tmp_path).findings[0].cause


def test_where_nothing_explains_it_the_tensors_of_all_groups_are_named(tmp_path: Path) -> None:
    """Both groups disagree, each by a formula of its own, and neither may be said to agree."""
    draw = torch.Generator().manual_seed(0)

    class Noisy(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            super().step(closure)
            for state in self.state.values():
                state["momentum_buffer"] += torch.randn(40, generator=draw)

    tensors = [torch.nn.Parameter(torch.linspace(-1, 1, 40)) for _ in range(2)]
    decayed, plain = (
        {"params": [tensor], "weight_decay": decay} for tensor, decay in zip(tensors, (0.1, 0.0), strict=True)
    )
    optimizer = Noisy([decayed, plain], lr=0.1, momentum=0.9)
    with Recorder(optimizer, tmp_path, rule="sgd", steps="all"):
        for _ in range(3):
            for tensor in tensors:
                tensor.grad = torch.randn(40, generator=draw)
            optimizer.step()
    finding = next(finding for finding in replay(tmp_path).findings if finding.slot == "momentum_buffer")
    assert f"it is in momentum_buffer of {' and '.join(finding.tensors)}, at 3 steps" in finding.cause
