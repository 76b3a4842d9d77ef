"""Mistakes of published optimizers, each planted in a small optimizer of its own, are named."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import Parameter

from crosscheck import Recorder, Verdict, replay
from crosscheck.diagnosis.rounding import how_rounded

Move = Callable[[Tensor, Tensor, dict[str, Any], dict[str, Any]], None]
"""Moves a parameter by its gradient, with its state and the options of its group."""


class Stepping(torch.optim.Optimizer):
    """An optimizer of one function, with the options of torch.optim.SGD and AdamW."""

    def __init__(self, params: list[Parameter], move: Move, **options: Any) -> None:
        super().__init__(params, options)
        self.move = move

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        del closure
        for group in self.param_groups:
            for p in group["params"]:
                self.move(p, p.grad, self.state[p], group)


SGD = {"lr": 0.1, "momentum": 0.9, "dampening": 0.0, "weight_decay": 0.05, "nesterov": False}
ADAMW = {"lr": 0.01, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.05, "decoupled_weight_decay": True}


def buffer(p: Tensor, g: Tensor, state: dict[str, Any], group: dict[str, Any]) -> Tensor:
    b = state.setdefault("momentum_buffer", torch.zeros_like(p))
    return b.mul_(group["momentum"]).add_(g)


def moments(p: Tensor, g: Tensor, state: dict[str, Any], group: dict[str, Any]) -> tuple[Tensor, Tensor, float]:
    if not state:
        state |= {"step": torch.tensor(0.0), "exp_avg": torch.zeros_like(p), "exp_avg_sq": torch.zeros_like(p)}
    (b1, b2), (m, v) = group["betas"], (state["exp_avg"], state["exp_avg_sq"])
    state["step"] += 1
    return m.mul_(b1).add_(g, alpha=1 - b1), v.mul_(b2).addcmul_(g, g, value=1 - b2), float(state["step"])


def keras(p: Tensor, g: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
    v = state.setdefault("momentum_buffer", torch.zeros_like(p))
    p.add_(v.mul_(group["momentum"]).sub_(g, alpha=group["lr"]))


def constant(p: Tensor, g: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
    p.sub_(buffer(p, g, state, group), alpha=group["lr"])
    p.sub_(group["lr"] * group["weight_decay"])


def ahead(p: Tensor, g: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
    g = g.add(p, alpha=group["weight_decay"])
    first, kept = not state, 1 - group["dampening"]
    p.sub_(g + group["momentum"] * buffer(p, g if first else kept * g, state, group), alpha=group["lr"])


def adamw(
    *, decays: tuple[int, int] = (1, 0), early: bool = False, single: bool = False, half: bool = False, by: float = 0.0
) -> Move:
    """Return AdamW with the decay so many times before and after the step, and with errors of its update.

    `early`: eps joins before the correction; `single`: the corrections are float32; `half`: the update is a bfloat16;
    `by`: the decay subtracts a constant.
    """

    def move(p: Tensor, g: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        (b1, b2), lr, kept = group["betas"], group["lr"], 1 - group["lr"] * group["weight_decay"]
        p.mul_(kept ** decays[0]).sub_(lr * by)
        m, v, t = moments(p, g, state, group)
        c1, c2 = 1 - b1**t, 1 - b2**t
        if single:
            c1, c2 = (float(1 - torch.tensor(b) ** torch.tensor(t)) for b in (b1, b2))
        root = v.sqrt() / c2**0.5 + group["eps"] / (c2**0.5 if early else 1)
        update = m / c1 / root
        p.sub_(update.bfloat16().to(p.dtype) if half else update, alpha=lr)
        p.mul_(kept ** decays[1])

    return move


def still(p: Tensor, g: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
    moments(p, g, state, group)


def rounding_gradient(p: Tensor, g: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
    adamw()(p, g.bfloat16().to(p.dtype), state, group)


NEW = "weight decay is taken from the new parameters"
EARLY = "eps is added before the bias correction of the second moment (as TensorFlow does)"
TWICE = "weight decay is applied twice (for example once for each of two dtypes)"
CONSTANT = "weight decay subtracts a constant instead of a part of the parameter"
CAUSES: dict[str, tuple[str, Move, dict[str, Any], str]] = {
    "keras": (
        "sgd",
        keras,
        {**SGD, "weight_decay": 0.0},
        "the momentum buffer is a negative velocity with the learning rate inside (as in Keras)",
    ),
    "constant": ("sgd", constant, SGD, CONSTANT),
    "constant of adamw": ("adamw", adamw(decays=(0, 0), by=0.05), ADAMW, CONSTANT),
    "constant beside adam": (
        "adam",
        adamw(decays=(0, 0), by=0.05),
        {**ADAMW, "decoupled_weight_decay": False},
        CONSTANT,
    ),
    "look-ahead": ("sgd", ahead, {**SGD, "dampening": 0.1}, "Nesterov's look-ahead is there, though not asked for"),
    "decay twice": ("adamw", adamw(decays=(2, 0)), ADAMW, TWICE),
    "decay before and after": ("adamw", adamw(decays=(1, 1)), ADAMW, TWICE),
    "decay three times": (
        "adamw",
        adamw(decays=(3, 0)),
        {**ADAMW, "lr": 0.1},
        "weight decay is applied three times (for example once for each of three dtypes)",
    ),
    "two at once": ("adamw", adamw(decays=(0, 1), early=True), ADAMW, f"{NEW}, and {EARLY}"),
    "still": (
        "adamw",
        still,
        ADAMW,
        "the parameter does not move (another tensor may have taken its place)",
    ),
    "float32 corrections": ("adamw", adamw(single=True), ADAMW, "bias corrections are computed in float32"),
    "update in bfloat16": ("adamw", adamw(half=True), ADAMW, "the update is computed in bfloat16"),
    "gradient in bfloat16": ("adamw", rounding_gradient, ADAMW, "the gradient is rounded to bfloat16"),
}


def explained(rule: str, move: Move, options: dict[str, Any], trace: Path, parameters: list[Parameter]) -> list[str]:
    """Return the causes of a few recorded steps, which must be a mismatch."""
    generator = torch.Generator().manual_seed(0)
    optimizer = Stepping(parameters, move, **options)
    with Recorder(optimizer, trace, rule=rule, steps="all"):
        for _ in range(6):
            for p in parameters:
                p.grad = torch.randn(p.shape, generator=generator).to(p.dtype)
            optimizer.step()
            optimizer.param_groups[0]["lr"] *= 0.7
    report = replay(trace)
    assert report.verdict is Verdict.MISMATCH
    return [finding.cause.partition("recorded inputs: ")[2] for finding in report.findings]


@pytest.mark.parametrize("name", CAUSES)
def test_a_published_mistake_is_named(name: str, tmp_path: Path) -> None:
    rule, move, options, cause = CAUSES[name]
    generator = torch.Generator().manual_seed(1)
    causes = explained(rule, move, options, tmp_path / "trace", [Parameter(torch.randn(400, generator=generator))])
    assert {said.split(" or ")[0] for said in causes if said} == {cause}


def test_a_decay_once_for_each_dtype_is_one_cause_for_all_tensors(tmp_path: Path) -> None:
    """The tensors of the first dtype decay before and after their step, those of the second twice before it."""

    def move(p: Tensor, g: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        adamw(decays=(1, 1) if p.dtype == torch.float32 else (2, 0))(p, g, state, group)

    parameters = [Parameter(torch.randn(50)), Parameter(torch.randn(50, dtype=torch.float64))]
    assert explained("adamw", move, ADAMW, tmp_path / "trace", parameters) == [TWICE]


def test_what_nothing_explains_is_told_by_its_shape(tmp_path: Path) -> None:
    """The second of two tensors gets p³ too much, from the third step on."""
    parameters = [Parameter(torch.randn(100)), Parameter(torch.randn(100, 2))]

    def move(p: Tensor, g: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        cube = p**3
        adamw()(p, g, state, group)
        if p.dim() == 2 and state["step"] > 2:
            p.add_(cube, alpha=0.1)

    (said,) = explained("adamw", move, {**ADAMW, "weight_decay": 0.0}, tmp_path / "trace", parameters)
    assert said.startswith("no mistake of the catalogue explains it; it is in param of group0.1 (not of group0.0), ")
    assert "at 4 steps from 3 to 6" in said
    assert "grows like |p|^3.0, does not depend on |g|" in said


def stable_decay(p: Tensor, start: Tensor, v: Tensor, t: float) -> Tensor:
    """Return a decay by the root of all second moments, as AdamS has it."""
    del start, t
    return 2e-7 * p / v.mean().sqrt()


def pull_to_start(p: Tensor, start: Tensor, v: Tensor, t: float) -> Tensor:
    """Return a small pull, which changes from step to step, towards half of what the parameters were (L2-SP)."""
    del v
    return 1e-6 * (1 + t % 3) * (p - start / 2)


def alternating_decay(p: Tensor, start: Tensor, v: Tensor, t: float) -> Tensor:
    del start, v
    return 1e-5 / p.numel() ** 0.5 * (1 + t % 2) * p


@pytest.mark.parametrize("pull", [stable_decay, pull_to_start, alternating_decay])
def test_a_small_multiple_of_the_parameter_is_no_narrow_update(pull: Callable[..., Tensor], tmp_path: Path) -> None:
    """It is of either sign, is bounded, and has nothing to do with the update, so it scatters around it as rounding does."""
    generator = torch.Generator().manual_seed(1)
    parameters = [Parameter(torch.randn(size, generator=generator)) for size in (64, 30)]
    start = [p.detach().clone() for p in parameters]

    def move(p: Tensor, g: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        old = p.clone()
        adamw()(p, g, state, group)
        p.sub_(pull(old, start[0 if len(p) == 64 else 1], state["exp_avg_sq"], float(state["step"])))

    options = {**ADAMW, "weight_decay": 0.0, "decoupled_weight_decay": False}
    for said in explained("adam", move, options, tmp_path / "trace", parameters):
        assert said.startswith("no mistake of the catalogue explains it"), said


UNIT = 2.0**-8  # of bfloat16


def stored(kind: str) -> tuple[np.ndarray, np.ndarray]:
    """Return exact numbers, and what a format of seven bits keeps of them."""
    random = np.random.default_rng(0)
    exact = random.normal(size=500)
    place = 2 * UNIT * 2.0 ** np.floor(np.log2(np.abs(exact)))
    up = {"nearest": 0.5, "toward zero": 0.0, "stochastic": random.random(500)}[kind]
    return np.sign(exact) * np.floor(np.abs(exact) / place + up) * place, exact


@pytest.mark.parametrize(
    ("kind", "unit", "said"),
    [
        ("nearest", UNIT, ""),
        ("toward zero", UNIT, "m is truncated instead of rounded to nearest"),
        ("stochastic", UNIT, "m is rounded stochastically"),
        ("nearest", 2.0**-24, "m is rounded to bfloat16"),
        ("toward zero", 2.0**-24, "m is truncated to bfloat16 instead of rounded to nearest"),
        ("stochastic", 2.0**-24, "m is rounded stochastically to bfloat16"),
    ],
)
def test_the_kind_of_rounding_is_told_from_numbers_alone(kind: str, unit: float, said: str) -> None:
    assert how_rounded("m", *stored(kind), unit) == said


def test_a_float64_step_that_nothing_explains_is_told_by_its_shape(tmp_path: Path) -> None:
    """In roundoffs of float64, float32's corrections may be off by 10^9: what is fitted to rows must stand that."""

    def move(p: Tensor, g: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        adamw()(p, g, state, group)
        p.add_(g**3, alpha=1e-6)

    options = {**ADAMW, "betas": (0.95, 0.95), "weight_decay": 0.0}
    parameters = [Parameter(torch.randn(60, dtype=torch.float64))]
    (said,) = explained("adamw", move, options, tmp_path / "trace", parameters)
    assert "grows like |g|^3.0" in said
