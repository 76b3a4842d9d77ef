"""The training loop."""

from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any

from distrib.errors import RunFault
from distrib.job.stop import Stopped, StopRequest
from distrib.page.live import LivePage
from distrib.ranks.collectives import all_gather_json, reason_to_stop
from distrib.ranks.step_sync import StepResult
from distrib.training import summary
from distrib.training.checkpointer import Checkpointer
from distrib.training.observers import Observers
from distrib.training.run import Run
from distrib.training.trackers import Trackers


def train(
    run: Run, request: StopRequest, page: LivePage | None = None, trackers: Trackers | None = None
) -> dict[str, Any]:
    """Train what remains of the run, and return its summary. Raises Stopped, RunFault or BadInput.

    `page` is refreshed and `trackers` are told meanwhile.
    """
    with closing(Observers(run, page, trackers)) as observers:
        checkpointer = Checkpointer(run)
        run.model.train()
        last = run.resumed.step
        if observers.progress.evaluation_pending:
            if not _evaluate(run, last, observers, request):
                raise _stopped(run, request, last, run.resumed.path)
            _save(checkpointer, observers, last)  # again, with what the evaluation found
        for step in run.remaining_steps():
            if (step - 1) % run.plan.steps_per_epoch == 0 and run.enough(observers.progress):
                break
            epoch_ends = step % run.plan.steps_per_epoch == 0
            stop = request.asked() or observers.asks_to_stop()
            result = take_step(run, step, observers, stop=stop, checkpoint=checkpointer.due(step))
            saves = result.checkpoint or result.stop or epoch_ends
            run.replica_check.after_step(step, saves=saves)  # raises before anything is saved if ranks differ
            if saves:
                checkpointer.expect_finite(step)
            evaluated = not epoch_ends or _evaluate(run, step, observers, request)
            if saves:
                path = _save(checkpointer, observers, step)
                if result.stop or not evaluated:
                    _raise_mismatch(run, observers, step, path)
                    raise _stopped(run, request, step, path)
            last = step
    # A run that was complete when it resumed has no score yet.
    score = observers.score or run.evaluate(request.asked)
    if score is None:
        raise _stopped(run, request, last, run.resumed.path)
    return summary.write(run, last, score, observers.progress, observers.rates())


def _evaluate(run: Run, step: int, observers: Observers, request: StopRequest) -> bool:
    """Evaluate the epoch that ended with `step`. Return False if some rank was asked to stop meanwhile."""
    score = run.evaluate(request.asked)
    if score is not None:
        observers.after_evaluation(step, score)
    return score is not None


def _save(checkpointer: Checkpointer, observers: Observers, step: int) -> Path:
    """Save a checkpoint after `step`, and return its path."""
    observers.before_checkpoint()
    path = checkpointer.save(step, observers.progress)
    observers.after_checkpoint(step)
    return path


def _raise_mismatch(run: Run, observers: Observers, step: int, path: Path) -> None:
    """Raise RunFault on every rank if the live replay of rank 0 has found a mismatch to stop for."""
    mismatch = all_gather_json(run.accelerator, observers.mismatch)[0]
    if mismatch is not None:
        raise RunFault(f"{mismatch}; stopped after step {step} by crosscheck.live = stop, and {path} is there")


def _stopped(run: Run, request: StopRequest, step: int, path: Path | None) -> Stopped:
    reason = reason_to_stop(run.accelerator, request)
    assert reason is not None  # all ranks have agreed that one of them was asked
    return Stopped(reason, f"after step {step}; {path} is there, the same command continues", step)


def take_step(run: Run, step: int, observers: Observers, *, stop: bool, checkpoint: bool) -> StepResult:
    """Take one step: forward, backward, update. Return its loss, and whether any rank wishes a stop or a checkpoint.

    `stop` and `checkpoint` are this rank's own wishes; the result is the same on every rank. Raises RunFault.
    """
    run.seed_step(step)
    with observers.passes.watching(step):
        for part in observers.clock.waiting(run.batches.at(step)):  # one part, unless training.accumulate
            with nullcontext() if part.last else run.accelerator.no_sync(run.model):
                with run.precision.autocast():
                    loss = run.criterion(run.model(part.images), part)
                run.step_sync.add(loss)
                if part.last:
                    run.step_sync.start(stop=stop, checkpoint=checkpoint)
                run.backward(loss)
    run.statistics.average()
    result = run.step_sync.finish(step)  # raises before the update if the loss is not finite
    observers.after_backward(step)
    applied = run.update.step()
    observers.after_step(step, result.loss, applied=applied)
    run.optimizer.zero_grad()
    return result
