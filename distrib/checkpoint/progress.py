"""Counts how far a run has come in its epochs and how good it has become, and says whether that is enough."""

from dataclasses import dataclass, replace

from distrib.data.batches.plan import Plan


@dataclass(slots=True)
class Progress:
    """What a checkpoint knows of the run that no tensor holds."""

    # Sum of the global losses since the epoch began; that of a smaller batch counts as the part of a batch that it is.
    epoch_loss: float = 0.0
    train_loss: float | None = None  # mean over the images of the last whole epoch
    evaluation_pending: bool = False  # the last step ended an epoch that is not evaluated yet
    best_accuracy: float | None = None  # on the test images, 0..1
    best_step: int | None = None  # the step after which it was measured, the first one of equals
    epochs_without_gain: int = 0  # evaluated since then

    def after_step(self, step: int, loss: float, plan: Plan) -> None:
        """Count the loss of a step, which is the mean over its batch. The last step of an epoch ends it."""
        self.epoch_loss += loss * (plan.images_of(step) / plan.batch_size)
        if step % plan.steps_per_epoch == 0:
            self.end_epoch(plan.images(plan.steps_per_epoch) / plan.batch_size)

    def end_epoch(self, batches: float) -> None:
        """Note that the epoch's last step is taken, and its evaluation is to come.

        It had so many batches, the last one perhaps in part.
        """
        self.train_loss, self.epoch_loss = self.epoch_loss / batches, 0.0
        self.evaluation_pending = True

    def evaluated(self, step: int, accuracy: float) -> None:
        """Note what the evaluation of the epoch that ended with `step` found."""
        self.evaluation_pending = False
        if self.best_accuracy is None or accuracy > self.best_accuracy:
            self.best_accuracy, self.best_step, self.epochs_without_gain = accuracy, step, 0
        else:
            self.epochs_without_gain += 1

    def without_best(self) -> "Progress":
        """Return what remains where the best checkpoint is not kept: the next evaluation is the best one so far."""
        return replace(self, best_accuracy=None, best_step=None, epochs_without_gain=0)

    def enough(self, *, stop_at_accuracy: float | None, patience: int | None) -> str | None:
        """Return in words why the run ends here, before its last epoch, or None if it goes on.

        It is asked at the end of an epoch, and the answer follows from what a checkpoint holds: a run that was interrupted
        ends after the same step. The arguments are the recipe's keys of these names in [training].
        """
        if self.evaluation_pending or self.best_accuracy is None:
            return None
        if stop_at_accuracy is not None and self.best_accuracy >= stop_at_accuracy:
            return f"test accuracy {self.best_accuracy:.2%} reached training.stop_at_accuracy = {stop_at_accuracy}"
        if patience is not None and self.epochs_without_gain >= patience:
            return (
                f"no epoch of the last {self.epochs_without_gain} was better than the {self.best_accuracy:.2%} after step "
                f"{self.best_step} (training.patience = {patience})"
            )
        return None
