"""Loops of Lightning. Importing it takes seconds, so tests do when they run and not when they are collected."""

from pathlib import Path
from typing import Any

import lightning.pytorch
import torch
from lightning.pytorch.plugins import MixedPrecision

from crosscheck.integrations.lightning import RecorderCallback

pl: Any = lightning.pytorch


class Automatic(pl.LightningModule):
    """Lightning calls backward, clips, and steps the scheduler."""

    def __init__(self, scheduler: dict[str, Any]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inner, self.scheduler = torch.nn.Linear(8, 2), scheduler

    def training_step(self, batch: Any, number: int) -> Any:
        del number
        return self.inner(batch[0]).square().mean() * 30

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.inner.parameters(), lr=0.01)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 20)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, **self.scheduler}}


class OwnClipping(Automatic):
    """A module that clips in its own way."""

    def configure_gradient_clipping(self, optimizer: Any, *_: Any, **__: Any) -> None:
        for parameter in optimizer.param_groups[0]["params"]:
            parameter.grad.clamp_(-0.01, 0.02)


class OwnSchedulerStep(Automatic):
    """A module that steps its scheduler when it wants to."""

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        del metric
        if self.global_step % 2 == 0:
            scheduler.step()


class OwnOptimizerStep(Automatic):
    """A module that steps its optimizer after every second batch."""

    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any) -> None:
        del epoch
        if batch_idx % 2:
            optimizer.step(closure=optimizer_closure)
        else:
            optimizer_closure()


class Growing(Automatic):
    """A module that has two batches more in each epoch."""

    def train_dataloader(self) -> Any:
        return loader_of(2 + 2 * self.current_epoch)


class EndsEpochs(Automatic):
    """A module that ends an epoch before its last batch."""

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> int | None:
        del batch
        return -1 if batch_idx == 4 else None


class ChangesGradients(Automatic):
    """A module that changes its gradients before the trainer clips them."""

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        for parameter in optimizer.param_groups[0]["params"]:
            parameter.grad.mul_(0.5)


class TwoSchedulers(Automatic):
    """A module with two schedulers for one optimizer."""

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.inner.parameters(), lr=0.01)
        of_steps = torch.optim.lr_scheduler.StepLR(optimizer, 3, 0.5)
        of_epochs = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
        return [optimizer], [{"scheduler": of_steps, "interval": "step"}, of_epochs]


class Overflowing(Automatic):
    """A module whose gradients overflow in the first and the fifth batch of an epoch."""

    def __init__(self, *, fused: bool, scheduled: bool) -> None:
        super().__init__({"interval": "step"})
        self.fused, self.scheduled = fused, scheduled

    def training_step(self, batch: Any, number: int) -> Any:
        loss = super().training_step(batch, number)
        return loss * torch.inf if number in (0, 4) else loss

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.inner.parameters(), lr=0.01, fused=self.fused)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 20)
        both = {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, **self.scheduler}}
        return both if self.scheduled else optimizer


def half_precision() -> Any:
    """Return what Lightning makes of precision="16-mixed" on a GPU; on a CPU it takes bfloat16 instead, without a loss scaler."""
    return MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=1024.0))


class Manual(pl.LightningModule):
    """Two optimizers that the module steps itself."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = torch.nn.Linear(8, 2), torch.nn.Linear(8, 2)
        self.automatic_optimization = False

    def training_step(self, batch: Any, number: int) -> None:
        for optimizer, inner in zip(self.optimizers(), (self.first, self.second), strict=True):
            optimizer.zero_grad()
            self.manual_backward(inner(batch[0]).square().mean())
            if inner is self.first or number % 2:
                optimizer.step()

    def configure_optimizers(self) -> Any:
        return [
            torch.optim.AdamW(self.first.parameters(), lr=0.01),
            torch.optim.AdamW(self.second.parameters(), lr=0.02),
        ]


def loader_of(batches: int) -> Any:
    generator = torch.Generator().manual_seed(1)
    inputs = torch.utils.data.TensorDataset(torch.randn(2 * batches, 8, generator=generator))
    return torch.utils.data.DataLoader(inputs, batch_size=2)


def fit(
    module: Any,
    folder: Path,
    *callbacks: RecorderCallback,
    epochs: int = 3,
    load: Any = None,
    own_data: bool = False,
    **more: Any,
) -> Any:
    trainer = pl.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        callbacks=[*callbacks],
        default_root_dir=folder,
        **more,
    )
    trainer.fit(module, None if own_data else loader_of(7), ckpt_path=load)
    return trainer
