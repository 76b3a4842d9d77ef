"""One update: skip or apply, clip, count, average; with torch's own scaler and kernels."""

import math
from collections.abc import Callable, Iterator
from itertools import pairwise, product
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from distrib.optim.optimizer import SGD, Adam, AdamW, OptimizerConfig, SGDGroup, build_optimizer
from distrib.optim.schedule import Factor
from distrib.optim.update import Update

Snapshot = dict[str, Tensor]

OPTIMIZERS: dict[str, Callable[[dict[str, Any]], OptimizerConfig]] = {
    "sgd": lambda kernels: SGD(lr=0.01, **kernels),
    "momentum": lambda kernels: SGD(lr=0.01, momentum=0.9, weight_decay=0.01, **kernels),
    "dampening": lambda kernels: SGD(lr=0.01, momentum=0.9, dampening=0.5, **kernels),
    "nesterov": lambda kernels: SGD(lr=0.01, momentum=0.9, nesterov=True, **kernels),
    "adam": lambda kernels: Adam(lr=0.01, weight_decay=0.01, **kernels),
    "amsgrad": lambda kernels: Adam(lr=0.01, amsgrad=True, **kernels),
    "adamw": lambda kernels: AdamW(lr=0.01, **kernels),
}
KERNELS: dict[str, dict[str, Any]] = {
    "fused": {"fused": True},
    "foreach": {"foreach": True},
    "single": {"fused": False},
}

each_optimizer = pytest.mark.parametrize(("name", "kernels"), list(product(OPTIMIZERS, KERNELS)))


@pytest.fixture(autouse=True)
def garbage() -> Iterator[None]:
    """Uninitialised memory is full of NaN here, so whoever reads it is found out."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


class Trainer:
    """A tiny network, its optimizer, a scaler with the given scale (none: no scaling), and the update under test."""

    def __init__(
        self,
        config: OptimizerConfig,
        scale: float | None = None,
        *,
        schedule: Factor = lambda _: 1.0,
        growth_interval: int = 2000,
        **limits: float,
    ) -> None:
        """`limits` are the update's own: clip_norm, clip_value, ema."""
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
        optimizer = build_optimizer(config, self.net.named_parameters(), torch.device("cpu"))
        scaler = torch.amp.GradScaler(
            "cpu", init_scale=scale or 1.0, growth_interval=growth_interval, enabled=scale is not None
        )
        self.update = Update(self.net, optimizer, schedule, scaler, **limits)

    def step(self, batch: int, *, overflow: bool = False) -> bool:
        generator = torch.Generator().manual_seed(batch)
        inputs, targets = torch.randn(5, 3, generator=generator), torch.randn(5, 2, generator=generator)
        loss = (self.net(inputs) - targets).square().sum()
        self.update.scale(loss).backward()
        if overflow:
            last = list(self.net.parameters())[-1].grad
            assert last is not None
            last[0] = math.inf
        applied = self.update.step()
        self.update.optimizer.zero_grad()
        return applied

    def weights(self) -> Snapshot:
        return {name: tensor.clone() for name, tensor in self.net.state_dict().items()}

    def state(self) -> Snapshot:
        """Every tensor the optimizer remembers."""
        return {
            f"{slot}/{name}": value.clone()
            for name, parameter in self.net.named_parameters()
            for slot, value in self.update.optimizer.state.get(parameter, {}).items()
            if value is not None
        }


def same(left: Snapshot, right: Snapshot) -> bool:
    """Bit for bit."""
    return left.keys() == right.keys() and all(torch.equal(left[key], right[key]) for key in left)


def config_of(name: str, kernels: str) -> OptimizerConfig:
    return OPTIMIZERS[name](KERNELS[kernels])


@each_optimizer
@pytest.mark.parametrize("good_steps", [0, 2], ids=["first", "third"])
def test_overflow_moves_nothing(name: str, kernels: str, good_steps: int) -> None:
    trainer = Trainer(config_of(name, kernels), 1024.0, ema=0.5)
    for batch in range(good_steps):
        assert trainer.step(batch)
    average = trainer.update.average
    assert average is not None
    weights, state = trainer.weights(), trainer.state()
    averaged = {key: value.clone() for key, value in average.state_dict().items()}

    assert not trainer.step(good_steps, overflow=True)

    assert same(trainer.weights(), weights)
    assert same(trainer.state(), state)
    assert same(average.state_dict(), averaged)
    assert (trainer.update.applied, trainer.update.skipped) == (good_steps, 1)


@each_optimizer
@pytest.mark.parametrize("overflow_at", [0, 2], ids=["first", "third"])
def test_overflow_leaves_no_trace_in_later_steps(name: str, kernels: str, overflow_at: int) -> None:
    disturbed, calm = (Trainer(config_of(name, kernels), 1024.0) for _ in range(2))
    for batch in range(5):
        if batch == overflow_at:
            assert not disturbed.step(99, overflow=True)
        assert disturbed.step(batch)
        assert calm.step(batch)
        assert same(disturbed.weights(), calm.weights())
    assert same(disturbed.state(), calm.state())
    assert all(bool(value.isfinite().all()) for value in disturbed.state().values())


@settings(max_examples=25, deadline=None)
@given(
    overflows=st.lists(st.booleans(), max_size=8),
    name=st.sampled_from(list(OPTIMIZERS)),
    kernels=st.sampled_from(list(KERNELS)),
)
def test_any_pattern_of_overflows_equals_the_applied_steps_alone(
    overflows: list[bool], name: str, kernels: str
) -> None:
    disturbed, calm = Trainer(config_of(name, kernels), 2.0**20), Trainer(config_of(name, kernels), 2.0**20)
    for overflow in overflows:
        batch = disturbed.update.applied
        assert disturbed.step(batch, overflow=overflow) is not overflow
    for batch in range(overflows.count(False)):
        calm.step(batch)
    assert same(disturbed.weights(), calm.weights())
    assert same(disturbed.state(), calm.state())
    assert disturbed.update.skipped == overflows.count(True)


def test_plain_torch_leaves_a_momentum_buffer_after_a_skipped_first_step() -> None:
    """Why Update takes state back: this buffer was never written."""
    parameter = nn.Parameter(torch.ones(3))
    optimizer = torch.optim.SGD([parameter], lr=0.1, momentum=0.9, fused=True)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    scaler.scale(parameter.sum() * math.inf).backward()
    scaler.step(optimizer)
    scaler.update()
    assert parameter.tolist() == [1.0, 1.0, 1.0]
    assert "momentum_buffer" in optimizer.state[parameter]


@each_optimizer
def test_scale_too_large_is_halved_until_the_gradients_fit(name: str, kernels: str) -> None:
    trainer = Trainer(config_of(name, kernels), 2.0**127)
    calm = Trainer(config_of(name, kernels), 1.0)
    applied = [trainer.step(0) for _ in range(12)]
    skipped = applied.index(True)
    assert skipped > 0
    assert applied == [False] * skipped + [True] * (12 - skipped)
    assert trainer.update.scaler.get_scale() == 2.0 ** (127 - skipped)
    assert (trainer.update.applied, trainer.update.skipped) == (12 - skipped, skipped)
    for _ in range(12 - skipped):
        calm.step(0)
    assert same(trainer.weights(), calm.weights())


def test_growing_scale_is_no_overflow() -> None:
    trainer = Trainer(SGD(lr=0.1), 8.0, growth_interval=2)
    assert all(trainer.step(batch) for batch in range(4))
    assert trainer.update.scaler.get_scale() == 32.0
    assert trainer.update.skipped == 0


@each_optimizer
def test_scaled_steps_equal_unscaled_ones(name: str, kernels: str) -> None:
    scaled, plain = Trainer(config_of(name, kernels), 2.0**16), Trainer(config_of(name, kernels))
    for batch in range(3):
        assert scaled.step(batch)
        assert plain.step(batch)
    assert same(scaled.weights(), plain.weights())


def test_without_scaler_nothing_is_scaled_or_skipped() -> None:
    trainer = Trainer(SGD(lr=0.1))
    loss = torch.tensor(3.0)
    assert trainer.update.scale(loss).item() == 3.0
    assert all(trainer.step(batch) for batch in range(3))
    assert (trainer.update.applied, trainer.update.skipped) == (3, 0)


def test_schedule_advances_on_applied_steps_only() -> None:
    factors = (1.0, 0.5, 0.25, 0.125)
    trainer = Trainer(SGD(lr=0.4), 1024.0, schedule=lambda applied: factors[applied])
    rates: list[float] = []
    for overflow in (True, False, True, True, False, False):
        trainer.step(0, overflow=overflow)
        rates.append(trainer.update.lr)
    assert rates == [0.4, 0.4, 0.2, 0.2, 0.2, 0.1]


def test_factor_moves_the_weights_of_each_group_by_its_own_rate() -> None:
    groups = (SGDGroup(pattern="*.bias", lr=0.5),)
    trainer = Trainer(SGD(lr=0.1, groups=groups), schedule=lambda applied: (1.0, 0.25)[applied])
    for factor in (1.0, 0.25):
        before = trainer.weights()
        gradients = _gradients(trainer, batch=1)
        trainer.step(1)
        assert trainer.update.lr == 0.1 * factor, "what is told is the rate of what no pattern takes"
        for name, after in trainer.weights().items():
            rate = (0.5 if name.endswith("bias") else 0.1) * factor
            assert torch.allclose(before[name] - after, rate * gradients[name], rtol=1e-4, atol=1e-6)


def test_rate_does_not_compound_over_steps() -> None:
    trainer = Trainer(SGD(lr=0.5), schedule=lambda _: 0.5)
    for batch in range(3):
        trainer.step(batch)
        assert trainer.update.lr == 0.25


CLIPPING: dict[str, dict[str, Any]] = {"norm": {"clip_norm": 0.5}, "value": {"clip_value": 0.05}}


@pytest.mark.parametrize("kernels", list(KERNELS))
@pytest.mark.parametrize("scale", [None, 1024.0], ids=["float32", "scaled"])
def test_clip_norm_limits_the_norm_and_keeps_the_direction(kernels: str, scale: float | None) -> None:
    trainer = Trainer(SGD(lr=1.0, **KERNELS[kernels]), scale, **CLIPPING["norm"])
    gradients = torch.cat([g.flatten() for g in _gradients(trainer, batch=3).values()])
    assert gradients.norm() > 1.0  # or there would be nothing to clip
    moved = _moved(trainer, batch=3)
    assert moved.norm().item() == pytest.approx(0.5, rel=1e-5)
    assert torch.allclose(moved, nn.functional.normalize(gradients, dim=0) * 0.5, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("kernels", list(KERNELS))
@pytest.mark.parametrize("scale", [None, 1024.0], ids=["float32", "scaled"])
def test_clip_value_limits_each_element(kernels: str, scale: float | None) -> None:
    trainer = Trainer(SGD(lr=1.0, **KERNELS[kernels]), scale, **CLIPPING["value"])
    gradients = torch.cat([g.flatten() for g in _gradients(trainer, batch=3).values()])
    assert gradients.abs().max() > 0.1
    moved = _moved(trainer, batch=3)
    assert torch.allclose(moved, gradients.clamp(-0.05, 0.05), rtol=1e-4, atol=1e-6)


@each_optimizer
@pytest.mark.parametrize("kind", list(CLIPPING))
def test_clipping_acts_on_true_gradients_under_the_scaler(name: str, kernels: str, kind: str) -> None:
    scaled = Trainer(config_of(name, kernels), 2.0**15, **CLIPPING[kind])
    plain = Trainer(config_of(name, kernels), **CLIPPING[kind])
    free = Trainer(config_of(name, kernels))
    for batch in range(3):
        for trainer in (scaled, plain, free):
            assert trainer.step(batch)
    assert same(scaled.weights(), plain.weights())
    assert not same(free.weights(), plain.weights())


@each_optimizer
@pytest.mark.parametrize("kind", list(CLIPPING))
def test_overflow_under_clipping_leaves_no_trace(name: str, kernels: str, kind: str) -> None:
    disturbed = Trainer(config_of(name, kernels), 1024.0, **CLIPPING[kind])
    calm = Trainer(config_of(name, kernels), 1024.0, **CLIPPING[kind])
    assert not disturbed.step(7, overflow=True)
    for batch in range(3):
        disturbed.step(batch)
        calm.step(batch)
    assert same(disturbed.weights(), calm.weights())
    assert same(disturbed.state(), calm.state())


@pytest.mark.parametrize("scale", [None, 1024.0], ids=["unscaled", "scaled"])
@pytest.mark.parametrize("limits", [{}, {"clip_norm": 0.1}, {"clip_value": 0.01}], ids=["free", "norm", "value"])
def test_the_norm_is_that_of_the_true_gradient_before_clipping(scale: float | None, limits: dict[str, Any]) -> None:
    """It is measured at every step where it is clipped to, and else at one in ten."""
    trainer, plain = Trainer(config_of("sgd", "fused"), scale, **limits), Trainer(config_of("sgd", "fused"))
    measured: list[bool] = []
    for batch in range(11):
        trainer.step(batch)
        measured.append(trainer.update.gradient_norm is not None)
        if batch == 0:
            plain.step(0)
            assert trainer.update.gradient_norm == plain.update.gradient_norm
    assert measured == ["clip_norm" in limits or batch in (0, 10) for batch in range(11)]


@pytest.mark.parametrize("limit", [{"clip_norm": 1e6}, {"clip_value": 1e6}])
def test_limit_that_is_not_reached_changes_nothing(limit: dict[str, Any]) -> None:
    clipped, free = Trainer(SGD(lr=0.1), **limit), Trainer(SGD(lr=0.1))
    for batch in range(3):
        clipped.step(batch)
        free.step(batch)
    assert same(clipped.weights(), free.weights())


@pytest.mark.parametrize("decay", [0.1, 0.9, 0.999])
@pytest.mark.parametrize("scale", [None, 1024.0], ids=["float32", "scaled"])
def test_average_follows_its_recurrence(decay: float, scale: float | None) -> None:
    """It is decay * average + (1 - decay) * weights; the first update copies; skipped steps do not count."""
    trainer = Trainer(SGD(lr=0.1), scale, ema=decay)
    average = trainer.update.average
    assert average is not None
    expected: dict[str, Tensor] | None = None
    for batch in range(5):
        applied = trainer.step(batch, overflow=scale is not None and batch in (0, 3))
        weights = {name: value.double() for name, value in trainer.weights().items()}
        if expected is None:
            expected = weights if applied else None
        elif applied:
            expected = {name: decay * old + (1 - decay) * weights[name] for name, old in expected.items()}
        for name, value in (expected or weights).items():
            assert torch.allclose(average.module.state_dict()[name].double(), value, rtol=1e-5, atol=1e-6)
    assert not same(trainer.weights(), dict(average.module.state_dict()))


def test_average_does_not_disturb_training() -> None:
    with_average, without = Trainer(SGD(lr=0.1), ema=0.9), Trainer(SGD(lr=0.1))
    for batch in range(3):
        with_average.step(batch)
        without.step(batch)
    assert same(with_average.weights(), without.weights())


def test_training_lowers_the_loss() -> None:
    """The whole chain points downhill."""
    trainer = Trainer(SGD(lr=0.01, momentum=0.9), 1024.0)
    losses: list[float] = []
    for _ in range(4):
        losses.append(_loss(trainer, batch=0).item())
        trainer.step(0)
    assert all(later < earlier for earlier, later in pairwise(losses))


@pytest.mark.parametrize("kernels", list(KERNELS))
def test_scale_that_has_sunk_to_zero_is_not_taken_for_success(kernels: str) -> None:
    """Gradients that are never finite halve the scale until float32 has nothing below it."""
    trainer = Trainer(SGD(lr=0.1, **KERNELS[kernels]), 2.0**-148)
    before = trainer.weights()
    assert [trainer.step(0, overflow=True) for _ in range(6)] == [False] * 6
    assert trainer.update.applied == 0
    assert same(trainer.weights(), before)


def _loss(trainer: Trainer, batch: int) -> Tensor:
    generator = torch.Generator().manual_seed(batch)
    inputs, targets = torch.randn(5, 3, generator=generator), torch.randn(5, 2, generator=generator)
    return (trainer.net(inputs) - targets).square().sum()


def _gradients(trainer: Trainer, batch: int) -> Snapshot:
    named = dict(trainer.net.named_parameters())
    gradients = torch.autograd.grad(_loss(trainer, batch), list(named.values()))
    return dict(zip(named, gradients, strict=True))


def _moved(trainer: Trainer, batch: int) -> Tensor:
    """What one step took off the weights, flat."""
    before = trainer.weights()
    assert trainer.step(batch)
    after = trainer.weights()
    return torch.cat([(before[name] - after[name]).flatten() for name in before])


def test_what_is_not_finite_is_found_in_weights_and_average() -> None:
    trainer = Trainer(SGD(lr=0.01), ema=0.9)
    average = trainer.update.average
    assert average is not None
    trainer.net.register_buffer("mask", torch.tensor([-math.inf]))
    assert trainer.update.is_finite(), "a buffer may be infinite from the start"
    for parameters in (trainer.net.parameters(), average.parameters()):
        last = list(parameters)[-1].data
        before = last.clone()
        last[-1] = math.nan
        assert not trainer.update.is_finite()
        last.copy_(before)
    assert trainer.update.is_finite()
