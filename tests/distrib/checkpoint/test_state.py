"""A restored run continues bit for bit, and a checkpoint of another run is refused."""

import math
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from distrib.checkpoint import resume, state, store
from distrib.checkpoint.progress import Progress
from distrib.checkpoint.values import Saved
from distrib.errors import BadInput
from distrib.optim.optimizer import SGD, Adam, AdamW, OptimizerConfig, SGDGroup, build_optimizer
from distrib.optim.update import Update
from tests.distrib.checkpoint.test_resume import IDENTITY, INFERENCE

OPTIMIZERS: dict[str, Callable[[dict[str, Any]], OptimizerConfig]] = {
    "sgd": lambda kernels: SGD(lr=0.01, **kernels),
    "momentum": lambda kernels: SGD(lr=0.01, momentum=0.9, dampening=0.5, weight_decay=0.01, **kernels),
    "nesterov": lambda kernels: SGD(lr=0.01, momentum=0.9, nesterov=True, **kernels),
    "adam": lambda kernels: Adam(lr=0.01, weight_decay=0.01, **kernels),
    "amsgrad": lambda kernels: Adam(lr=0.01, amsgrad=True, **kernels),
    "adamw": lambda kernels: AdamW(lr=0.01, amsgrad=True, **kernels),
    "groups": lambda kernels: SGD(
        lr=0.01, momentum=0.9, groups=(SGDGroup(pattern="*.bias", momentum=0.0, lr=0.02),), **kernels
    ),
}
KERNELS: dict[str, dict[str, Any]] = {
    "fused": {"fused": True},
    "foreach": {"foreach": True},
    "single": {"fused": False},
}
EXTRAS = {"plain": (None, None), "ema": (0.9, None), "scaler": (None, 1024.0), "both": (0.9, 1024.0)}

each_optimizer = pytest.mark.parametrize(("name", "kernels"), list(product(OPTIMIZERS, KERNELS)))


class Trainer:
    """A tiny network with what updates it; `seed` decides the initial weights."""

    def __init__(
        self,
        config: OptimizerConfig,
        *,
        seed: int = 0,
        ema: float | None = None,
        scale: float | None = None,
        channels_last: bool = True,
        width: int = 4,
    ) -> None:
        torch.manual_seed(seed)
        self.net = nn.Sequential(nn.Conv2d(3, width, kernel_size=3), nn.Flatten(), nn.Linear(width * 4, 2))
        if channels_last:
            self.net.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        optimizer = build_optimizer(config, self.net.named_parameters(), torch.device("cpu"))
        scaler = torch.amp.GradScaler("cpu", init_scale=scale or 1.0, growth_interval=3, enabled=scale is not None)
        self.update = Update(self.net, optimizer, lambda n: 1.0 / (1 + n), scaler, ema=ema)

    def steps(self, *batches: int, overflow: int = -1) -> None:
        for batch in batches:
            generator = torch.Generator().manual_seed(batch)
            inputs, targets = torch.randn(5, 3, 4, 4, generator=generator), torch.randn(5, 2, generator=generator)
            loss = (self.net(inputs) - targets).square().sum()
            self.update.scale(loss * math.inf if batch == overflow else loss).backward()
            self.update.step()
            self.update.optimizer.zero_grad()

    def everything(self) -> dict[str, Tensor]:
        tensors, _ = state.capture(self.update)
        return {f"{part}/{name}": tensor.clone() for part, named in tensors.items() for name, tensor in named.items()}


def write(trainer: Trainer, folder: Path, step: int = 3) -> store.Checkpoint:
    return store.open_checkpoint(store.save(folder, step, *state.capture(trainer.update), keep=3))


def restore(checkpoint: store.Checkpoint, update: Update, *, same_optimizer: bool = False) -> None:
    """Restore what `write` wrote, of which the tests say the rest."""
    facts = resume.metadata({}, IDENTITY, INFERENCE, Progress())
    saved = Saved.model_validate(facts | dict(checkpoint.values))
    state.restore(checkpoint, saved, update, same_optimizer=same_optimizer)


def assert_same(left: Trainer, right: Trainer) -> None:
    ours, theirs = left.everything(), right.everything()
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []
    assert (left.update.applied, left.update.skipped) == (right.update.applied, right.update.skipped)
    assert left.update.lr == right.update.lr
    assert left.update.scaler.state_dict() == right.update.scaler.state_dict()


@each_optimizer
@pytest.mark.parametrize("channels_last", [True, False], ids=["nhwc", "nchw"])
@pytest.mark.parametrize("extra", list(EXTRAS))
def test_restored_run_continues_bit_for_bit(
    name: str, kernels: str, extra: str, channels_last: bool, tmp_path: Path
) -> None:
    (ema, scale), config = EXTRAS[extra], OPTIMIZERS[name](KERNELS[kernels])
    undisturbed = Trainer(config, ema=ema, scale=scale, channels_last=channels_last)
    overflow = -1 if scale is None else 1
    undisturbed.steps(0, 1, 2, overflow=overflow)
    resumed = Trainer(config, seed=1, ema=ema, scale=scale, channels_last=channels_last)
    resumed.steps(9)  # what was there before must not matter

    restore(write(undisturbed, tmp_path), resumed.update)

    assert_same(undisturbed, resumed)
    for trainer in (undisturbed, resumed):
        trainer.steps(3, 4, 5, 6, overflow=5 if scale is not None else -1)
    assert_same(undisturbed, resumed)
    assert undisturbed.update.skipped == (0 if scale is None else 2)


@each_optimizer
def test_checkpoint_before_the_first_applied_update_continues_bit_for_bit(
    name: str, kernels: str, tmp_path: Path
) -> None:
    config = OPTIMIZERS[name](KERNELS[kernels])
    undisturbed = Trainer(config, scale=1024.0, ema=0.9)
    undisturbed.steps(0, overflow=0)
    resumed = Trainer(config, seed=1, scale=1024.0, ema=0.9)
    restore(write(undisturbed, tmp_path), resumed.update)
    for trainer in (undisturbed, resumed):
        trainer.steps(1, 2)
    assert_same(undisturbed, resumed)
    assert resumed.update.applied == 2


@each_optimizer
def test_restored_state_lies_in_memory_like_its_parameter(name: str, kernels: str, tmp_path: Path) -> None:
    """Fused kernels walk through both at once, without looking at strides."""
    config = OPTIMIZERS[name](KERNELS[kernels])
    trainer, resumed = Trainer(config), Trainer(config, seed=1)
    trainer.steps(0, 1)
    restore(write(trainer, tmp_path), resumed.update)
    convolution = next(resumed.net.parameters())
    assert convolution.is_contiguous(memory_format=torch.channels_last)
    assert not convolution.is_contiguous()
    for parameter, slots in resumed.update.optimizer.state.items():
        for slot, value in slots.items():
            assert slot == "step" or value is None or value.stride() == parameter.stride()


@pytest.mark.parametrize("name", list(OPTIMIZERS))
@pytest.mark.parametrize(("before", "after"), list(product(KERNELS, KERNELS)))
def test_kernels_may_change_over_a_resume(name: str, before: str, after: str, tmp_path: Path) -> None:
    trainer, resumed = Trainer(OPTIMIZERS[name](KERNELS[before])), Trainer(OPTIMIZERS[name](KERNELS[after]), seed=1)
    trainer.steps(0, 1, 2)
    restore(write(trainer, tmp_path), resumed.update)
    for one in (trainer, resumed):
        one.steps(3, 4)
    expected, found = trainer.everything(), resumed.everything()
    assert expected.keys() == found.keys()
    for key, value in expected.items():
        assert torch.allclose(found[key], value, rtol=1e-4, atol=1e-6), key


@pytest.mark.parametrize(("before", "after"), [(True, False), (False, True)], ids=["to nchw", "to nhwc"])
@each_optimizer
def test_memory_order_may_change_over_a_resume(
    name: str, kernels: str, before: bool, after: bool, tmp_path: Path
) -> None:
    config = OPTIMIZERS[name](KERNELS[kernels])
    trainer, resumed = Trainer(config, channels_last=before), Trainer(config, seed=1, channels_last=after)
    trainer.steps(0, 1, 2)
    restore(write(trainer, tmp_path), resumed.update)
    assert_same(trainer, resumed)
    for one in (trainer, resumed):
        one.steps(3, 4)
    expected, found = trainer.everything(), resumed.everything()
    for key, value in expected.items():
        assert torch.allclose(found[key], value, rtol=1e-3, atol=1e-5), key


def test_restored_tensors_are_copies(tmp_path: Path) -> None:
    """Training on must not write into the checkpoint that was opened."""
    trainer = Trainer(SGD(lr=0.01, momentum=0.9))
    trainer.steps(0)
    checkpoint = write(trainer, tmp_path)
    restore(checkpoint, trainer.update)
    trainer.steps(1)
    store.open_checkpoint(checkpoint.path)


def test_network_is_restored_in_place(tmp_path: Path) -> None:
    """The optimizer and DDP hold these very tensors."""
    trainer = Trainer(SGD())
    checkpoint = write(trainer, tmp_path)
    before = [p.data_ptr() for p in trainer.net.parameters()]
    restore(checkpoint, trainer.update)
    assert [p.data_ptr() for p in trainer.net.parameters()] == before


def test_checkpoint_with_an_average_serves_a_run_without(tmp_path: Path) -> None:
    trainer, resumed = Trainer(SGD(), ema=0.9), Trainer(SGD(), seed=1)
    trainer.steps(0)
    restore(write(trainer, tmp_path), resumed.update)
    assert all(map(torch.equal, resumed.net.parameters(), trainer.net.parameters()))


def refusal(saved: Trainer, run: Trainer, folder: Path) -> str:
    saved.steps(0)
    checkpoint = write(saved, folder)
    with pytest.raises(BadInput) as caught:
        restore(checkpoint, run.update)
    assert str(checkpoint.path) in str(caught.value)
    return str(caught.value)


def test_another_network_is_refused(tmp_path: Path) -> None:
    said = refusal(Trainer(SGD()), Trainer(SGD(), width=6), tmp_path)
    for word in ("network", "0.bias", "(4,)", "(6,)", "new run"):
        assert word in said


def test_network_with_another_layer_is_refused(tmp_path: Path) -> None:
    other = Trainer(SGD())
    other.net.append(nn.Linear(2, 2))
    said = refusal(Trainer(SGD()), other, tmp_path)
    for word in ("network", "3.bias", "absent", "(2,)"):
        assert word in said


@pytest.mark.parametrize(
    ("saved", "run"), [(SGD(), Adam()), (Adam(), AdamW()), (AdamW(), SGD())], ids=lambda config: config.name
)
def test_another_optimizer_is_refused(saved: OptimizerConfig, run: OptimizerConfig, tmp_path: Path) -> None:
    said = refusal(Trainer(saved), Trainer(run), tmp_path)
    kinds = {"sgd": "SGD", "adam": "Adam", "adamw": "AdamW"}
    for word in (f"with {kinds[saved.name]},", f"for {kinds[run.name]}:", "optimizer.name", "output.dir"):
        assert word in said


def test_missing_average_is_refused(tmp_path: Path) -> None:
    said = refusal(Trainer(SGD()), Trainer(SGD(), ema=0.9), tmp_path)
    assert "moving average" in said
    assert "training.ema" in said


@pytest.mark.parametrize("kernels", list(KERNELS))
def test_amsgrad_switched_on_over_a_resume_is_refused(kernels: str, tmp_path: Path) -> None:
    """The running maximum cannot be made up."""
    said = refusal(Trainer(Adam(**KERNELS[kernels])), Trainer(Adam(amsgrad=True, **KERNELS[kernels])), tmp_path)
    assert "amsgrad" in said


def test_state_of_another_shape_is_refused(tmp_path: Path) -> None:
    trainer = Trainer(SGD(momentum=0.9))
    trainer.steps(0)
    tensors, values = state.capture(trainer.update)
    tensors["optimizer"]["momentum_buffer/2.bias"] = torch.zeros(7)
    checkpoint = store.open_checkpoint(store.save(tmp_path, 1, tensors, values, keep=1))
    with pytest.raises(BadInput, match=r"momentum_buffer/2\.bias"):
        restore(checkpoint, trainer.update)


@pytest.mark.parametrize("name", list(OPTIMIZERS))
def test_checkpoint_holds_each_slot_under_its_parameter_name(name: str) -> None:
    slots: dict[str, set[str]] = {
        "sgd": set(),
        "momentum": {"momentum_buffer"},
        "nesterov": {"momentum_buffer"},
        "groups": {"momentum_buffer"},
        "adam": {"step", "exp_avg", "exp_avg_sq"},
        "amsgrad": {"step", "exp_avg", "exp_avg_sq", "max_exp_avg_sq"},
        "adamw": {"step", "exp_avg", "exp_avg_sq", "max_exp_avg_sq"},
    }
    trainer = Trainer(OPTIMIZERS[name](KERNELS["fused"]))
    trainer.steps(0)
    tensors, values = state.capture(trainer.update)
    parameters = [n for n, _ in trainer.net.named_parameters() if name != "groups" or not n.endswith("bias")]
    assert set(tensors["optimizer"]) == {f"{slot}/{parameter}" for slot in slots[name] for parameter in parameters}
    assert set(tensors["model"]) == {n for n, _ in trainer.net.named_parameters()}
    assert values["applied_updates"] == 1
