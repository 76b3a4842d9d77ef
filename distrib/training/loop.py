"""Runs one epoch after another: it takes the steps, evaluates, and saves checkpoints."""

from contextlib import closing, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from distrib.checkpoint.progress import Progress
from distrib.errors import RunFault
from distrib.job.stop import Stopped, StopRequest
from distrib.layout import MISTAKES
from distrib.page.live import LivePage
from distrib.ranks.collectives import all_gather_json, reason_to_stop
from distrib.ranks.step_sync import StepResult
from distrib.training import facts, summary
from distrib.training.checkpointer import Checkpointer
from distrib.training.evaluate import Score
from distrib.training.metrics.trackers import Trackers
from distrib.training.observers import Observers
from distrib.training.run import Run


def train(
    run: Run, request: StopRequest, page: LivePage | None = None, trackers: Trackers | None = None
) -> dict[str, Any]:
    """Train what remains of the run, and return its summary. Raises Stopped, RunFault or BadInput.

    `page` is refreshed and `trackers` are told meanwhile.
    """
    progress, last = replace(run.resumed.progress), run.resumed.step
    score: Score | None = None  # of the last evaluation
    with closing(Observers(run, page, trackers)) as observers:
        checkpointer = Checkpointer(run)
        run.model.train()
        if progress.evaluation_pending:
            score = _evaluate(run, last, progress, observers, request)
            if score is None:
                raise _stopped(run, request, last, run.resumed.path)
            _save(checkpointer, observers, last, progress)  # again, with what the evaluation found
        for step in run.remaining_steps():
            if (step - 1) % run.plan.steps_per_epoch == 0 and run.config.training.enough(progress):
                break
            epoch_ends = step % run.plan.steps_per_epoch == 0
            stop = request.asked() or observers.asks_to_stop()
            result = take_step(run, step, observers, stop=stop, checkpoint=checkpointer.due(step))
            progress.after_step(step, result.loss, run.plan)
            saves = result.checkpoint or result.stop or epoch_ends
            run.replica_check.after_step(step, saves=saves)  # raises before anything is saved if ranks differ
            if saves:
                checkpointer.expect_finite(step)
            if epoch_ends:
                score = _evaluate(run, step, progress, observers, request)
            if saves:
                path = _save(checkpointer, observers, step, progress)
                if result.stop or (epoch_ends and score is None):
                    _raise_mismatch(run, observers, step, path)
                    raise _stopped(run, request, step, path)
            last = step
    if score is None:  # the run was complete when it resumed
        score = run.evaluate(request.asked)
    if score is None:
        raise _stopped(run, request, last, run.resumed.path)
    written = summary.write(run, last, score, progress, observers.rates())
    if page is not None:
        page.attempt(partial(facts.write_mistakes, run, score), run.folder / MISTAKES)
    return written


def _evaluate(run: Run, step: int, progress: Progress, observers: Observers, request: StopRequest) -> Score | None:
    """Evaluate the epoch that ended with `step`. Return None if some rank was asked to stop meanwhile."""
    score = run.evaluate(request.asked)
    if score is not None:
        progress.evaluated(step, score.accuracy)
        observers.after_evaluation(step, score, progress.train_loss)
    return score


def _save(checkpointer: Checkpointer, observers: Observers, step: int, progress: Progress) -> Path:
    """Save a checkpoint after `step`, and return its path."""
    observers.before_checkpoint()
    path = checkpointer.save(step, progress)
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
