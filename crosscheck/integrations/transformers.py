"""Records in the Trainer of Hugging Face transformers, by a callback.

    trainer = Trainer(..., callbacks=[RecorderCallback("trace")])

Steps are optimizer steps. The gradients are captured before the trainer clips them at `max_grad_norm`. A run that is resumed
from a checkpoint continues the trace. Rank 0 records.
"""

from pathlib import Path
from traceback import walk_stack
from typing import Any

from crosscheck.errors import TraceError
from crosscheck.integrations.accelerate import watch
from crosscheck.integrations.position import holds_trace
from crosscheck.integrations.recording import Recording, attach

try:
    from transformers.trainer import Trainer
    from transformers.trainer_callback import TrainerCallback, TrainerControl, TrainerState
    from transformers.training_args import TrainingArguments
except ImportError as error:
    raise ImportError(
        "crosscheck.integrations.transformers needs Hugging Face transformers: pip install 'transformers>=5'"
    ) from error


class RecorderCallback(TrainerCallback):
    """Records the optimizer of a `Trainer.train`, from its first step to its last."""

    def __init__(self, path: str | Path, **recorder_options: Any) -> None:
        """Prepare to record.

        Args:
            path: The folder of the trace.
            **recorder_options: More arguments of `Recorder`, such as `steps`, `average` or `claims`. They take
                precedence over the trainer's settings.
        """
        self.path, self._given = Path(path), recorder_options
        self.recording = Recording(None)
        """The recording, while training runs, on the rank that records."""

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Attach, when a checkpoint that is resumed has been loaded."""
        del control
        self.recording.close()  # of a training that was interrupted: the trainer tells no callback of an exception
        if not state.is_world_process_zero:
            return
        found: dict[str, Any] = {
            "scheduler": kwargs["lr_scheduler"],
            "world_size": args.world_size,
            "append": holds_trace(self.path),
            "first_step": state.global_step + 1,
        }
        if "named_parameters" not in self._given:
            found["model"] = kwargs["model"]
        if args.max_grad_norm:
            found["clip_norm"] = float(args.max_grad_norm)
        accelerator = _accelerator()
        found["scaler"] = accelerator.scaler
        recorder = attach(kwargs["optimizer"], self.path, found, self._given)
        self.recording = Recording(recorder, watch(accelerator, recorder))

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Commit what waits, so that a run that is resumed from this checkpoint continues the trace."""
        del args, state, control, kwargs
        self.recording.flush()

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Mark the end of the record."""
        del args, state, control, kwargs
        self.recording.close()


def _accelerator() -> Any:
    """Return the Accelerator of the trainer that is calling: no argument of a callback leads to it.

    The trainer clips after `backward` and before any callback, so the gradients are captured at the Accelerator's `backward`.
    Raises TraceError if no trainer is on the stack.
    """
    for frame, _ in walk_stack(None):
        trainer: Any = frame.f_locals.get("self")
        if isinstance(trainer, Trainer):
            return trainer.accelerator
    raise TraceError("RecorderCallback.on_train_begin is for transformers.Trainer to call; give it in callbacks=[...]")
