"""What watches the loop: metrics, display, checkpoints, the summary."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crosscheck.recorder import Recorder
from distrib.checkpoint import resume, state, store
from distrib.errors import BadInput
from distrib.job.stop import StopRequest
from distrib.ranks.collectives import agree_on_error
from distrib.training import summary
from distrib.training.evaluate import Score
from distrib.training.metrics import Metrics
from distrib.training.recording import PassRecorder, start_recorder
from distrib.training.run import Run


@dataclass(slots=True)
class _Clock:
    """Training time without evaluation and checkpoints."""

    seconds: float = 0.0
    steps: int = 0
    _since: float = 0.0

    def start(self) -> None:
        self._since = time.perf_counter()

    def lap(self) -> None:
        now = time.perf_counter()
        self.seconds += now - self._since
        self.steps += 1
        self._since = now

    def rate(self, images_per_step: int) -> float | None:
        return self.steps * images_per_step / self.seconds if self.seconds > 0 else None


class Observers:
    """Metrics, display and checkpoints around the loop; all writing is rank 0's."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.main = run.accelerator.is_main_process
        self.epoch_loss = run.resumed.epoch_loss  # sum over the epoch's steps so far
        self.score: Score | None = None
        self.train_loss = run.resumed.train_loss
        self.epoch_clock, self.run_clock = _Clock(), _Clock()
        self.saved_at = time.monotonic()
        self.metrics: Metrics | None = None
        if self.main:
            self.metrics = Metrics(
                run.folder / "metrics.jsonl", run.resumed.step, evaluation_pending=run.evaluation_pending
            )
        config = run.config.crosscheck
        self.passes = PassRecorder(run, config.gradient_steps if config.record else ())
        self.recorder: Recorder | None = None
        agree_on_error(run.accelerator, self._start_recorder() if self.main else None)
        batch = run.plan.batch_size
        run.display.open_bar(done=run.resumed.step * batch, total=run.total_steps * batch)
        self._restart_clocks()

    def checkpoint_due(self, step: int) -> bool:
        config = self.run.config.checkpoint
        if config.every_steps is not None and step % config.every_steps == 0:
            return True
        minutes = (time.monotonic() - self.saved_at) / 60
        return self.main and config.every_minutes is not None and minutes >= config.every_minutes

    def after_backward(self, step: int) -> None:
        """Before anything touches the gradients."""
        self.passes.after_backward(step, self.recorder)
        if self.recorder is not None:
            self.recorder.after_backward()

    def after_step(self, step: int, loss: float, *, applied: bool) -> None:
        self.epoch_clock.lap()
        self.run_clock.lap()
        self.epoch_loss += loss
        update = self.run.update
        if self.recorder is not None and self.recorder.step < step:
            self.recorder.skipped(loss_scale=update.loss_scale)  # the loss scaler did not call the optimizer
        if self.metrics is not None:
            self.metrics.write(
                kind="step",
                step=step,
                epoch=self.run.plan.epoch_of(step),
                loss=loss,
                lr=update.lr,
                applied=applied,
                applied_updates=update.applied,
            )
        self._track({"loss": loss, "lr": update.lr}, step)
        self.run.display.advance(self.run.plan.batch_size, loss)

    def after_epoch(self, step: int, request: StopRequest) -> bool:
        """Evaluate; False if some rank was asked to stop meanwhile, and the evaluation is owed."""
        run = self.run
        score = run.evaluate(request.asked)
        if score is None:
            return False
        self.score = score
        self.train_loss = self.epoch_loss / run.plan.steps_per_epoch
        rate = self.epoch_clock.rate(run.plan.batch_size)
        epoch, update = run.plan.epoch_of(step), run.update
        if self.metrics is not None:
            self.metrics.write(
                kind="epoch",
                step=step,
                epoch=epoch,
                train_loss=self.train_loss,
                test_loss=self.score.loss,
                test_accuracy=self.score.accuracy,
                lr=update.lr,
                images_per_second=rate,
                skipped_steps=update.skipped,
            )
        self._track({"test_accuracy": self.score.accuracy, "test_loss": self.score.loss}, step)
        run.display.line(
            f"epoch {epoch}/{run.config.training.epochs}  loss {self.train_loss:.4f}  "
            f"test accuracy {self.score.accuracy:.2%}  lr {update.lr:.3g}  {rate or 0:,.0f} images/s  "
            f"skipped steps {update.skipped}"
        )
        self.epoch_loss = 0.0
        self.epoch_clock = _Clock()
        self._restart_clocks()
        return True

    def checkpoint(self, step: int) -> Path:
        """Written by rank 0; if its disk refuses, every rank hears of it."""
        run = self.run
        folder, problem = run.folder / "checkpoints", None
        if self.main:
            tensors, values = state.capture(run.update)
            values |= resume.metadata(run.config.keys(), run.identity, self.epoch_loss, self.train_loss)
            if self.recorder is not None:
                self.recorder.flush()  # or a run that continues here would leave a hole in its trace
            try:
                store.save(folder, step, tensors, values, keep=run.config.checkpoint.keep)
            except BadInput as error:
                problem = str(error)
        agree_on_error(run.accelerator, problem)
        self.saved_at = time.monotonic()
        self._restart_clocks()
        return store.checkpoint_path(folder, step)

    def finish(self, request: StopRequest) -> dict[str, Any] | None:
        """The summary; None if some rank was asked to stop before it was made."""
        run = self.run
        self.close()
        # A run that was complete when it resumed has no score yet.
        score = self.score or run.evaluate(request.asked)
        if score is None:
            return None
        return summary.write(run, score, self.train_loss, self.run_clock.rate(run.plan.batch_size))

    def close(self) -> None:
        """Also when the run fails: the record of its last steps is worth most then."""
        self.run.display.close_bar()
        if self.metrics is not None:
            self.metrics.close()
        if self.recorder is not None:
            self.recorder.close()

    def _start_recorder(self) -> str | None:
        """The problem, if there is one."""
        run = self.run
        if not run.config.crosscheck.record:
            return None
        try:
            self.recorder = start_recorder(run, first_step=run.resumed.step + 1)
        except BadInput as error:
            return str(error)
        return None

    def _restart_clocks(self) -> None:
        self.epoch_clock.start()
        self.run_clock.start()

    def _track(self, values: dict[str, float], step: int) -> None:
        if self.run.config.output.trackers:
            self.run.accelerator.log(values, step=step)
