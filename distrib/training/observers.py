"""Watches the loop: it feeds metrics, trackers, display, clocks, and the recorder of the cross-check."""

from dataclasses import replace
from typing import Any

from crosscheck.recorder import Recorder
from distrib.crosscheck import LiveReplay
from distrib.layout import METRICS
from distrib.page.live import LivePage
from distrib.ranks.collectives import on_every_rank
from distrib.text import count
from distrib.training.evaluate import Score
from distrib.training.metrics.clock import Clock
from distrib.training.metrics.figures import peak_memory
from distrib.training.metrics.late_number import LateNumber
from distrib.training.metrics.metrics import Metrics
from distrib.training.metrics.profile import StepProfiler, steps_to_profile
from distrib.training.metrics.trackers import Trackers
from distrib.training.recording import PassRecorder, start_recorder
from distrib.training.run import Run


class Observers:
    """Tells of the run while it trains; all writing is rank 0's."""

    def __init__(self, run: Run, page: LivePage | None = None, trackers: Trackers | None = None) -> None:
        """`page` is refreshed as training goes on, and `trackers` are told; rank 0 may have them."""
        self.run, self.page, self.trackers = run, page, trackers
        self.main = run.accelerator.is_main_process
        self.clock, self.epoch_start = Clock(), Clock()
        pending = run.resumed.progress.evaluation_pending
        self.metrics: Metrics | None = on_every_rank(
            run.accelerator,
            lambda: Metrics(run.folder / METRICS, run.resumed.step, evaluation_pending=pending) if self.main else None,
        )
        # A step's line, and the norm that it still lacks.
        self._waiting: tuple[dict[str, Any], LateNumber] | None = None
        config = run.config.crosscheck
        self.passes = PassRecorder(run, config.gradient_steps if config.record else ())
        self.recorder: Recorder | None = on_every_rank(
            run.accelerator,
            lambda: start_recorder(run, first_step=run.resumed.step + 1) if config.record and self.main else None,
        )
        self.live: LiveReplay | None = on_every_rank(
            run.accelerator,
            lambda: LiveReplay(config.live, run.folder, run.display) if config.live != "off" and self.main else None,
        )
        self.profiler = self._profiler() if self.main else None
        run.display.open_bar(done=run.plan.images(run.resumed.step), total=run.plan.images(run.total_steps))
        if page is not None:
            page.begin()
        self.clock.start()

    def after_backward(self, step: int) -> None:
        """Record what came before the update; nothing has touched the gradients yet."""
        self.passes.after_backward(step, self.recorder)
        if self.recorder is not None:
            self.recorder.after_backward()

    def after_step(self, step: int, loss: float, *, applied: bool) -> None:
        update, images = self.run.update, self.run.plan.images_of(step)
        seconds, data_seconds = self.clock.lap(images)
        if self.recorder is not None and self.recorder.step < step:
            self.recorder.skipped(loss_scale=update.loss_scale)  # the loss scaler did not call the optimizer
        values = {"loss": loss, "lr": update.lr, "applied": applied, "applied_updates": update.applied}
        values |= {"seconds": round(seconds, 6), "data_seconds": round(data_seconds, 6)}
        if update.loss_scale is not None:
            values |= {"loss_scale": update.loss_scale}
        self._write_step(step, values)
        self.run.display.advance(images, loss, self._epoch(step))
        if self.page is not None and self.page.due():
            self.page.write(self.run.folder)
            self.clock.start()
        if self.profiler is not None and self.profiler.after_step(step):
            self.clock.start()

    def after_evaluation(self, step: int, score: Score, train_loss: float | None) -> None:
        """Report the epoch that ended with `step` and was evaluated."""
        run = self.run
        rates = self.rates(since=self.epoch_start)
        values = {
            "train_loss": train_loss,
            "test_loss": score.loss,
            "test_accuracy": score.accuracy,
            "lr": run.update.lr,
            **rates,
            "flop": run.compute.flop(run.plan.images(step)),
            "peak_memory": peak_memory(),
            "skipped_steps": run.update.skipped,
        }
        self._write_waiting()
        self._write("epoch", step, values)
        run.display.line(
            f"{self._epoch(step)}  loss {train_loss:.4f}  "
            f"test accuracy {score.accuracy:.2%}  lr {run.update.lr:.3g}"
            + (f"  {speed:,.0f} images/s" if (speed := rates["images_per_second"]) else "")
            + (f"  skipped steps {run.update.skipped}" if run.precision.scaler.is_enabled() else "")
        )
        if self.page is not None and self.page.due(epoch_ended=True):
            self.page.write(self.run.folder)
        self.epoch_start = replace(self.clock)
        self.clock.start()

    def asks_to_stop(self) -> bool:
        """Return whether the live replay has found a mismatch that ends the run. Rank 0 alone knows."""
        return self.live is not None and self.live.asks_to_stop()

    @property
    def mismatch(self) -> str | None:
        """Return in one line what the run is to end for."""
        return None if self.live is None else self.live.mismatch

    def before_checkpoint(self) -> None:
        """Write what trace and metrics still lack, or a run that continues from the checkpoint would leave a hole in them."""
        self._write_waiting()
        if self.recorder is not None:
            self.recorder.flush()

    def after_checkpoint(self, step: int) -> None:
        """Note that the run can be continued from this step, and leave the time out that the checkpoint took."""
        if self.metrics is not None:
            self.metrics.after_checkpoint(step)
        self.clock.start()

    def rates(self, since: Clock | None = None) -> dict[str, float | None]:
        """Return the speed of training since the clock stood like `since`, or since this start began, under its names in
        metrics.jsonl.

        Evaluations and checkpoints are left out.
        """
        since = since or Clock()
        speed = self.clock.rate(since)
        return self.run.compute.rates(speed) | {"data_share": self.clock.data_share(since)}

    def close(self) -> None:
        """Close all files, also when the run fails: the record of its last steps is worth most then."""
        self.run.display.close_bar()
        if self.live is not None:
            self.live.close()
        if self.profiler is not None:
            self.profiler.close()
        if self.metrics is not None:
            self._write_waiting()
            self.metrics.close()
        if self.recorder is not None:
            self.recorder.close()

    def _profiler(self) -> StepProfiler | None:
        run, wanted = self.run, self.run.config.output.profile_steps
        if wanted is None:
            return None
        steps = steps_to_profile(wanted, run.plan, run.resumed.step)
        if steps[-1] > run.total_steps:
            run.display.say(f"note: no profile of {count(wanted, 'step')}: what is left of the run is too short for it")
            return None
        return StepProfiler(steps, run.folder, run.accelerator.device, run.display)

    def _epoch(self, step: int) -> str:
        return f"epoch {self.run.plan.epoch_of(step)}/{self.run.config.training.epochs}"

    def _write_step(self, step: int, values: dict[str, Any]) -> None:
        """Write a step's line, or have it wait for the norm of its gradient: to wait for it here would idle a GPU."""
        self._write_waiting()
        norm = self.run.update.gradient_norm
        if self.metrics is None or norm is None:
            self._write("step", step, values)
            return
        self._waiting = ({"step": step, **values}, LateNumber(norm))
        if not norm.is_cuda:
            self._write_waiting()

    def _write_waiting(self) -> None:
        """Write the line that waits, if there is one."""
        if self._waiting is not None:
            (values, norm), self._waiting = self._waiting, None
            self._write("step", values.pop("step"), values | {"gradient_norm": norm.read()})

    def _write(self, kind: str, step: int, values: dict[str, Any]) -> None:
        """Write the values to metrics.jsonl, and give them to the trackers."""
        epoch = self.run.plan.epoch_of(step)
        if self.metrics is not None:
            self.metrics.write(kind=kind, step=step, epoch=epoch, **values)
        if self.trackers is not None and kind == "step":
            self.trackers.step(step, values, self.run.plan.images_of(step))
        elif self.trackers is not None:
            self.trackers.epoch(step, {"epoch": epoch, **values})
