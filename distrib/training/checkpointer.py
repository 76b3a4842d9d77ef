"""When a checkpoint of a run is due, and how one is saved."""

import time
from pathlib import Path

from distrib.checkpoint import resume, state, store
from distrib.checkpoint.progress import Progress
from distrib.ranks.collectives import on_every_rank
from distrib.training.run import Run


class Checkpointer:
    """Saves checkpoints of a run in its folder; all writing is rank 0's."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.main = run.accelerator.is_main_process
        self.saved_at = time.monotonic()

    def due(self, step: int) -> bool:
        """Return whether this rank wishes a checkpoint after this step, by the recipe's steps and rank 0's clock."""
        config = self.run.config.checkpoint
        if config.every_steps is not None and step % config.every_steps == 0:
            return True
        minutes = (time.monotonic() - self.saved_at) / 60
        return self.main and config.every_minutes is not None and minutes >= config.every_minutes

    def save(self, step: int, progress: Progress) -> Path:
        """Save a checkpoint after `step` and return its path. Raises BadInput on every rank if rank 0's disk refuses."""
        run, folder, config = self.run, self.run.folder / "checkpoints", self.run.config.checkpoint

        def save() -> None:
            if self.main:
                tensors, values = state.capture(run.update)
                values |= resume.metadata(run.config.keys(), run.identity, run.inference, progress)
                store.save(
                    folder, step, tensors, values, keep=config.keep, also=progress.best_step if config.best else None
                )

        on_every_rank(run.accelerator, save)
        self.saved_at = time.monotonic()
        return store.checkpoint_path(folder, step)
