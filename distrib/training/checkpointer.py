"""Decides when a checkpoint of a run is due and whether there is something worth saving, and saves it."""

import time
from pathlib import Path

from distrib.checkpoint import resume, state, store
from distrib.checkpoint.progress import Progress
from distrib.errors import RunFault
from distrib.layout import CHECKPOINTS
from distrib.ranks.collectives import all_gather_json, on_every_rank
from distrib.training.run import Run


class Checkpointer:
    """Saves checkpoints of a run in its folder; all writing is rank 0's."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.main = run.accelerator.is_main_process
        self.saved_at = time.monotonic()
        self.newest = run.resumed.path
        """The checkpoint that the run would continue from."""

    def due(self, step: int) -> bool:
        """Return whether this rank wishes a checkpoint after this step, by the recipe's steps and rank 0's clock."""
        config = self.run.config.checkpoint
        if config.every_steps is not None and step % config.every_steps == 0:
            return True
        minutes = (time.monotonic() - self.saved_at) / 60
        return self.main and config.every_minutes is not None and minutes >= config.every_minutes

    def expect_finite(self, step: int) -> None:
        """Raise RunFault, on every rank alike, if the weights after `step` are worth no checkpoint because not all are finite.

        The loss of a step is looked at before its update, so that it says nothing of the weights that the update made.
        """
        if all(all_gather_json(self.run.accelerator, self.run.update.is_finite())):
            return
        kept = (
            "there is none of an earlier step: the same command with other values starts anew"
            if self.newest is None
            else f"{self.newest} is kept: the same command with other values goes on from it"
        )
        raise RunFault(
            f"step {step}: the update left weights, or a moving average of them, that are not finite; all ranks stopped, no "
            f"checkpoint of this step was written, and {kept}. Likely causes: a learning rate that is too high (optimizer.lr, "
            "schedule), or gradients that grew; training.clip_norm may help. If the weights had grown long before, start a new "
            "run (another output.dir)"
        )

    def save(self, step: int, progress: Progress) -> Path:
        """Save a checkpoint after `step` and return its path. Raises BadInput on every rank if rank 0's disk refuses."""
        run, folder, config = self.run, self.run.folder / CHECKPOINTS, self.run.config.checkpoint

        def save() -> None:
            if self.main:
                tensors, values = state.capture(run.update)
                values |= resume.metadata(run.config.keys(), run.identity, run.inference, progress)
                store.save(
                    folder,
                    step,
                    tensors,
                    values,
                    keep=config.keep,
                    keep_step=progress.best_step if config.best else None,
                )

        on_every_rank(run.accelerator, save)
        self.saved_at = time.monotonic()
        self.newest = store.checkpoint_path(folder, step)
        return self.newest
