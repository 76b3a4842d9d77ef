"""Holds a run: data, network, optimizer and all else that the loop needs, put together by `build.py`."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn import functional

from distrib import counter_rng
from distrib.checkpoint.resume import Resumed
from distrib.checkpoint.values import Identity, Inference
from distrib.data.batches.batches import Batches, Part
from distrib.data.batches.plan import Plan
from distrib.data.images import Split
from distrib.display import Display
from distrib.networks.factory import Code
from distrib.optim.precision import Precision
from distrib.optim.update import Update
from distrib.ranks.replica_check import ReplicaCheck
from distrib.ranks.running_statistics import RunningStatistics
from distrib.ranks.step_sync import StepSync
from distrib.training.evaluate import Score, evaluate
from distrib.training.metrics.figures import Compute
from distrib.training.metrics.mistakes import Mistakes
from distrib.training.recipe import RunConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """Everything the loop needs, as it stands after the checkpoint that the run continues from."""

    config: RunConfig
    accelerator: Accelerator
    display: Display
    folder: Path
    dataset_name: str
    classes: tuple[str, ...]
    moments: tuple[Tensor, Tensor]  # mean and std of each channel, as the trace claims them, whatever normalises
    batches: Batches
    test: Split
    model: nn.Module  # what the loop calls: the network, in DDP when there are several ranks
    code: Code | None  # the file that the network is written in, if it is not the project's
    compute: Compute
    statistics: RunningStatistics
    precision: Precision
    update: Update
    step_sync: StepSync
    replica_check: ReplicaCheck
    identity: Identity
    inference: Inference
    resumed: Resumed

    @property
    def plan(self) -> Plan:
        return self.batches.plan

    @property
    def module(self) -> nn.Module:
        """The bare network, for evaluation and checkpoints."""
        return self.update.model

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        return self.update.optimizer

    @property
    def total_steps(self) -> int:
        return self.plan.steps(self.config.training.epochs)

    def remaining_steps(self) -> Iterator[int]:
        """Return the steps still to take. They count from 1; a resumed run continues behind its checkpoint."""
        return iter(range(self.resumed.step + 1, self.total_steps + 1))

    def seed_step(self, step: int) -> None:
        """Let what the network draws in this step, as dropout does, follow from the seed, the step and the rank alone."""
        torch.default_generator.manual_seed(key := counter_rng.key(self.plan.seed, step, self.plan.rank))
        if self.accelerator.device.type == "cuda":
            torch.cuda.manual_seed(key)

    def criterion(self, logits: Tensor, part: Part) -> Tensor:
        """Return this rank's share of the mean cross-entropy over the global batch; a mixed image has that of both its labels."""
        losses = self._losses(logits, part.labels)
        if part.mixed is not None:
            share = part.mixed.share
            losses = share * losses + (1 - share) * self._losses(logits, part.mixed.labels)
        return (losses * part.weights).sum()

    def _losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        smoothing = self.config.training.label_smoothing
        return functional.cross_entropy(logits, labels, reduction="none", label_smoothing=smoothing)

    def backward(self, share: Tensor) -> None:
        """Compute the gradient of the sum of all ranks' shares: DDP averages over the ranks,
        so each share is multiplied by their number.
        """
        self.accelerator.backward(self.update.scale(share * self.accelerator.num_processes))

    def evaluate(self, asked_to_stop: Callable[[], bool]) -> Score | None:
        """Evaluate the moving average of the weights, or the weights where there is none. None if a request to stop came."""
        return evaluate(
            self.module if self.update.average is None else self.update.average,
            self.test,
            self.batches.normalize,
            self.precision.autocast(),
            batch_size=self.config.training.eval_batch_size,
            rank=self.accelerator.process_index,
            world_size=self.accelerator.num_processes,
            tta=self.config.training.tta,
            asked_to_stop=asked_to_stop,
            mistakes=Mistakes(len(self.classes), self.accelerator.device),
        )
