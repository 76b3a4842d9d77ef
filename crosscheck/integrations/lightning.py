"""Records in Lightning, by a callback.

    trainer = Trainer(callbacks=[RecorderCallback("trace")])

Steps are optimizer steps. The gradients are captured before the trainer clips them. The bound of the clipping, and how often the
scheduler is stepped, are read from the trainer. A run that continues from a checkpoint continues the trace. Rank 0 records.
"""

import math
from pathlib import Path
from typing import Any, cast

import torch

from crosscheck.errors import TraceError
from crosscheck.integrations.position import holds_trace, next_step
from crosscheck.integrations.recording import Recording, attach
from crosscheck.recorder.warning import warn

try:
    from lightning.pytorch import Callback, LightningModule, Trainer
    from lightning.pytorch.callbacks import GradientAccumulationScheduler, StochasticWeightAveraging
except ImportError as error:
    raise ImportError("crosscheck.integrations.lightning needs Lightning: pip install 'lightning>=2.6'") from error


class RecorderCallback(Callback):
    """Records one optimizer of a `fit`, from its first step to its last.

    Under manual optimization the module clips and steps schedulers itself, at moments that no callback is told of: what it
    does around the optimizer is then claimed by hand.
    """

    def __init__(self, path: str | Path, *, optimizer: int = 0, **recorder_options: Any) -> None:
        """Prepare to record.

        Args:
            path: The folder of the trace.
            optimizer: The number of the optimizer, in the order of `configure_optimizers`.
            **recorder_options: More arguments of `Recorder`, such as `steps`, `average` or `claims`. They take
                precedence over the trainer's settings.
        """
        super().__init__()
        self.path, self._number, self._given = Path(path), optimizer, recorder_options
        self.recording = Recording(None)
        """The recording, while `fit` runs, on the rank that records."""
        self._captures = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Attach, when a checkpoint that is continued has been loaded."""
        if not trainer.is_global_zero:
            return
        if not 0 <= self._number < len(trainer.optimizers):
            raise TraceError(
                f"RecorderCallback(optimizer={self._number}): accepted are 0 to {len(trainer.optimizers) - 1}, "
                "the numbers of the optimizers that configure_optimizers returns"
            )
        optimizer = trainer.optimizers[self._number]
        automatic = pl_module.automatic_optimization
        first_step = trainer.global_step + 1 if automatic else next_step(self.path, optimizer)
        found: dict[str, Any] = {
            "scaler": getattr(trainer.precision_plugin, "scaler", None),
            "world_size": trainer.world_size,
            "append": holds_trace(self.path),
            "first_step": first_step,
        }
        if "named_parameters" not in self._given:
            found["model"] = pl_module
        if automatic:
            clipped = _clipping(trainer, pl_module)
            found |= clipped or {}
            claims: Any = self._given.get("claims")
            by_hand = claims is not None and (claims.clip_norm, claims.clip_value) != (None, None)
            self._captures = clipped is not None or by_hand or bool({"clip_norm", "clip_value"} & set(self._given))
            found |= _schedule(trainer, pl_module, optimizer)
        self.recording = Recording(
            attach(optimizer, self.path, found, self._given, applied=trainer.global_step if automatic else None)
        )

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Capture scaled gradients: under a loss scaler they are unscaled before the next hook."""
        del pl_module
        if self._captures and self._scaled(trainer) and not trainer.fit_loop._should_accumulate():  # pyright: ignore[reportPrivateUsage]
            self.recording.after_backward()

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Capture the gradients, which the trainer clips next."""
        del pl_module, optimizer
        if self._captures and not self._scaled(trainer):
            self.recording.after_backward()

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Commit what waits, so that a run that continues from this checkpoint continues the trace."""
        del trainer, pl_module, checkpoint
        self.recording.flush()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Mark the end of the record."""
        del trainer, pl_module
        self.recording.close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Commit what is there when training fails."""
        del trainer, pl_module, exception
        self.recording.close()

    def _scaled(self, trainer: Trainer) -> bool:
        return getattr(trainer.precision_plugin, "scaler", None) is not None


def _clipping(trainer: Trainer, module: LightningModule) -> dict[str, float] | None:
    """Return how the trainer clips, as arguments of the recorder; None if the module has its own way, which nothing tells."""
    if _overrides(module, "configure_gradient_clipping"):
        return None
    if not trainer.gradient_clip_val:
        # The module's hook runs after that of the callback, and may change what was captured.
        return {"clip_norm": math.nan} if _overrides(module, "on_before_optimizer_step") else {}
    algorithm: Any = trainer.gradient_clip_algorithm
    by_value = getattr(algorithm, "value", algorithm) == "value"
    return {"clip_value" if by_value else "clip_norm": float(trainer.gradient_clip_val)}


def _schedule(trainer: Trainer, module: LightningModule, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Return the scheduler of the optimizer and the updates to one of its steps, as arguments of the recorder.

    Where these do not say what Lightning does, warn and return nothing.
    """
    configs = [one for one in trainer.lr_scheduler_configs if getattr(one.scheduler, "optimizer", None) is optimizer]
    if not configs:
        return {}
    config, each, batches = configs[0], trainer.accumulate_grad_batches, float(trainer.num_training_batches)
    after_each_update = (config.interval, config.frequency) == ("step", 1)
    if len(configs) > 1:
        why = f"{len(configs)} schedulers step this optimizer"
    elif _overrides(module, "lr_scheduler_step"):
        why = f"{type(module).__name__} steps the scheduler in a way of its own, lr_scheduler_step"
    elif _overrides(module, "optimizer_step"):
        why = f"{type(module).__name__} steps the optimizer in a way of its own, optimizer_step"
    elif _has(trainer, StochasticWeightAveraging):
        why = "StochasticWeightAveraging replaces the scheduler during training"
    elif not after_each_update and (changing := _changes_epochs(trainer, module)):
        why = f"{changing} may change how many updates an epoch has"
    elif config.interval == "epoch" and math.isfinite(batches):
        return {"scheduler": config.scheduler, "scheduler_every": math.ceil(batches / each) * config.frequency}
    elif after_each_update or (
        config.interval == "step" and each == 1 and math.isfinite(batches) and batches % config.frequency == 0
    ):
        return {"scheduler": config.scheduler, "scheduler_every": config.frequency}
    else:
        why = (
            f"a scheduler with interval={config.interval!r} and frequency={config.frequency} is not stepped after a fixed number "
            "of updates here"
        )
    warn(f"crosscheck: the learning rate is not checked: {why}")
    return {}


def _changes_epochs(trainer: Trainer, module: LightningModule) -> str | None:
    """Return what may give one epoch more updates than another; None if nothing does."""
    if _has(trainer, GradientAccumulationScheduler):
        return "GradientAccumulationScheduler"
    if trainer.reload_dataloaders_every_n_epochs:  # pyright: ignore[reportAttributeAccessIssue]
        return "reload_dataloaders_every_n_epochs"
    if _overrides(module, "on_train_batch_start"):  # by returning -1
        return f"{type(module).__name__}.on_train_batch_start"
    return None


def _overrides(module: LightningModule, method: str) -> bool:
    return getattr(type(module), method) is not getattr(LightningModule, method)


def _has(trainer: Trainer, kind: type[Callback]) -> bool:
    return any(isinstance(callback, kind) for callback in cast(list[Callback], trainer.callbacks))  # pyright: ignore[reportAttributeAccessIssue]
