"""For test suites: is this optimizer the one it claims to be?"""

import random
import tempfile
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from crosscheck.errors import MathMismatch
from crosscheck.recorder import Recorder
from crosscheck.replayer import replay
from crosscheck.report.report import Report, Verdict


def gradient(regime: str, size: int, dtype: torch.dtype, seed: int) -> Tensor:
    """Return a vector of gradients of one regime, 5 % of them zero. Values spread over four decades of either sign.

    Regimes: `typical` (around 1e-2), `tiny` (1e-6), `denormal` (squares below the normal numbers of the
    format), `huge` (squares near its upper end).
    """
    generator = torch.Generator().manual_seed(seed)
    squares = {"denormal": torch.finfo(dtype).tiny ** 0.5 / 8, "huge": torch.finfo(dtype).max ** 0.5 / 256}
    center = {"typical": 1e-2, "tiny": 1e-6, **squares}[regime]
    decades = torch.rand(size, generator=generator, dtype=torch.float64) * 4 - 2
    values = center * 10**decades * torch.randn(size, generator=generator, dtype=torch.float64).sign()
    values[torch.rand(size, generator=generator) < 0.05] = 0.0
    return values.to(dtype)


REGIMES = ("typical", "tiny", "denormal", "huge")


def check_optimizer(
    make: Callable[[list[torch.nn.Parameter]], torch.optim.Optimizer],
    *,
    steps: int = 8,
    size: int = 512,
    dtype: torch.dtype = torch.float32,
    rule: str = "auto",
    slots: Mapping[str, str] | None = None,
    regimes: Iterable[str] = ("typical", "tiny"),
    seed: int = 0,
) -> Report:
    """Let `make(parameters)` take a few steps on made-up gradients and replay them through Optax.

        check_optimizer(lambda params: torch.optim.Adam(params, lr=1e-3, amsgrad=True))

    Args:
        make: Builds the optimizer under test from a list of parameters.
        steps: Steps to take.
        size: Elements of each parameter; there is one parameter for each regime.
        dtype: Of the parameters.
        rule: The torch optimizer whose formula is claimed; `auto` goes by the class.
        slots: The rule's names of state -> this optimizer's, where they differ.
        regimes: Kinds of gradients, see `gradient`.
        seed: Of parameters and gradients.

    Returns the report, whose verdict is match.

    Raises:
        MathMismatch: The update differs from the formula (or nothing moved); the message has the report.
        UnsupportedOptimizer: There is no rule for it.
    """
    report = observe(make, steps=steps, size=size, dtype=dtype, rule=rule, slots=slots, regimes=regimes, seed=seed)
    if report.verdict is not Verdict.MATCH:
        raise MathMismatch(str(report), report)
    return report


def observe(
    make: Callable[[list[torch.nn.Parameter]], torch.optim.Optimizer],
    *,
    steps: int,
    size: int,
    dtype: torch.dtype,
    regimes: Iterable[str],
    seed: int = 0,
    **recording: Any,
) -> Report:
    """Record `steps` steps on made-up gradients and replay them."""
    generator = torch.Generator().manual_seed(seed)
    parameters = {
        regime: torch.nn.Parameter(torch.randn(size, generator=generator, dtype=torch.float64).to(dtype))
        for regime in regimes
    }
    seeds = random.Random(seed)  # noqa: S311 (no secret)
    optimizer = make(list(parameters.values()))
    recording = {"steps": "all", "coordinates": 1, **recording}
    with tempfile.TemporaryDirectory(prefix="crosscheck-") as trace:
        with Recorder(optimizer, trace, named_parameters=parameters.items(), seed=seed, **recording):
            for _ in range(steps):
                for regime, parameter in parameters.items():
                    parameter.grad = gradient(regime, size, dtype, seeds.randrange(2**31))
                optimizer.step()
        return replay(trace)
