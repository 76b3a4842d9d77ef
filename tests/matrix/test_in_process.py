"""Every cell of the matrix trains a tiny network in one process: the replay gives no alarm, and training keeps its promises."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from distrib.data.batches.plan import Plan
from distrib.optim.optimizer import build_optimizer
from distrib.optim.precision import Precision
from distrib.optim.schedule import RunLength
from distrib.optim.update import Update
from distrib.training.recipe import RunConfig
from distrib.training.recording import start_recorder
from tests.matrix.alarms import one_cycle, replay_without_alarm
from tests.matrix.cells import CELLS, Cell

CPU = torch.device("cpu")
STEPS = 10
BATCH = 12
PEAK = 0.03  # the highest learning rate, high enough to learn something in ten steps

# The relative difference that is allowed between the losses of two runs which differ only in the order of their sums. In
# float32 that is some roundoffs a step. Under autocast, weights and activations are rounded again, so that a roundoff of
# float32 may become one of the half format. This happens to few numbers of many, so two such roundoffs of the loss are
# allowed.
ROUNDING = {"no": 32 * 2.0**-24, "bf16": 2 * 2.0**-8, "fp16": 2 * 2.0**-11}


@dataclass(frozen=True, slots=True)
class Trained:
    """The trace of a run and what happened at each of its steps."""

    trace: Path
    losses: list[float]
    rates: list[float]
    applied: list[bool]
    skipped: int


class Trainer:
    """Trains a tiny network with the project's own pieces. Ranks take turns, and their gradients are averaged as by DDP."""

    def __init__(self, cell: Cell, folder: Path) -> None:
        self.cell = cell
        config = RunConfig.model_validate(
            {
                "training": {
                    "batch_size": BATCH,
                    "epochs": 1,
                    "accumulate": cell.accumulate,
                    "clip_norm": 0.5 if cell.clip else None,
                    "ema": 0.9,
                },
                "optimizer": cell.options() | {"lr": PEAK},
                "schedule": {"name": "onecycle"},
                "precision": {"mode": cell.precision, "force": True, "init_scale": 1024.0},
            }
        )
        torch.manual_seed(0)
        self.inputs, self.labels = torch.randn(STEPS * BATCH, 9), torch.randint(3, (STEPS * BATCH,))
        self.inputs[torch.arange(STEPS * BATCH), self.labels] += 2.0  # gives the network something to learn
        self.net = nn.Sequential(nn.Linear(9, 16), nn.Linear(16, 3))
        self.parameters = list(self.net.parameters())
        self.plans = [
            Plan(
                num_images=STEPS * BATCH,
                batch_size=BATCH,
                last_batch="drop",
                accumulate=cell.accumulate,
                seed=0,
                rank=rank,
                world_size=cell.ranks,
            )
            for rank in range(cell.ranks)
        ]
        self.precision = Precision(config.precision, CPU, {})
        optimizer = build_optimizer(config.optimizer, self.net.named_parameters(), CPU)
        factor = config.schedule.factor(RunLength(total_updates=STEPS, updates_per_epoch=STEPS))
        self.update = Update(
            self.net,
            optimizer,
            factor,
            self.precision.scaler,
            clip_norm=config.training.clip_norm,
            clip_value=config.training.clip_value,
            ema=config.training.ema,
        )
        run = SimpleNamespace(  # the attributes of a Run that a recorder reads
            config=config,
            folder=folder,
            plan=self.plans[0],
            module=self.net,
            optimizer=optimizer,
            precision=self.precision,
            update=self.update,
            total_steps=STEPS,
        )
        self.recorder = start_recorder(cast(Any, run), first_step=1)
        self.trace = folder / "trace"

    def train(self) -> Trained:
        """Train all steps, recorded, and return what happened."""
        losses: list[float] = []
        rates: list[float] = []
        applied: list[bool] = []
        with self.recorder:
            for step in range(1, STEPS + 1):
                losses.append(self.backward(step))
                if step in self.cell.overflows:
                    _of(self.parameters[-1]).view(-1)[0] = torch.inf
                self.recorder.after_backward()
                applied.append(self.update.step())
                if self.recorder.step < step:
                    self.recorder.skipped(loss_scale=self.update.loss_scale)
                rates.append(self.update.lr)
                self.update.optimizer.zero_grad()
        return Trained(self.trace, losses, rates, applied, self.update.skipped)

    def backward(self, step: int) -> float:
        """Compute the gradients, averaged over all ranks, and return the loss over the global batch."""
        loss = 0.0
        by_rank: list[list[Tensor]] = []
        for plan in self.plans:
            for index, weights in plan.shares(step, CPU):
                with self.precision.autocast():
                    each = nn.functional.cross_entropy(
                        self.net(self.inputs[index]), self.labels[index], reduction="none"
                    )
                    share = (each * weights).sum()
                self.update.scale(share * plan.world_size).backward()
                loss += share.item()
            by_rank.append([_of(parameter) for parameter in self.parameters])
            self.update.optimizer.zero_grad()
        for parameter, *grads in zip(self.parameters, *by_rank, strict=True):
            parameter.grad = torch.stack(grads).mean(dim=0)
        return loss


def _of(parameter: Tensor) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad


Train = Callable[[Cell], Trained]


@pytest.fixture(scope="module")
def train(tmp_path_factory: pytest.TempPathFactory) -> Train:
    """A function that trains a cell, or returns the earlier result if the cell was trained before."""
    done: dict[Cell, Trained] = {}

    def trained(cell: Cell) -> Trained:
        if cell not in done:
            done[cell] = Trainer(cell, tmp_path_factory.mktemp(str(cell))).train()
        return done[cell]

    return trained


@pytest.mark.parametrize("cell", CELLS, ids=str)
def test_nothing_alarms(cell: Cell, train: Train) -> None:
    report = replay_without_alarm(train(cell).trace, cell, STEPS)
    assert set(report.not_tested) <= {"eps"}  # eps is too small beside these gradients to show


@pytest.mark.parametrize("cell", CELLS, ids=str)
def test_skipped_steps_move_no_count_and_no_rate(cell: Cell, train: Train) -> None:
    run = train(cell)
    assert run.applied == [step not in cell.overflows for step in range(1, STEPS + 1)]
    assert run.skipped == len(cell.overflows)
    rates = one_cycle(PEAK, STEPS)
    assert run.rates == pytest.approx([rates[sum(run.applied[:step])] for step in range(STEPS)], rel=1e-12)


@pytest.mark.parametrize("cell", CELLS, ids=str)
def test_kernels_ranks_and_parts_change_no_loss(cell: Cell, train: Train) -> None:
    plain = cell._replace(kernels="single", accumulate=1, ranks=1)
    assert train(cell).losses == pytest.approx(train(plain).losses, rel=ROUNDING[cell.precision])


@pytest.mark.parametrize("cell", CELLS, ids=str)
def test_the_network_learns(cell: Cell, train: Train) -> None:
    losses = train(cell).losses
    assert sum(losses[-3:]) < 0.9 * sum(losses[:3])
