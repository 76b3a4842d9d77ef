"""Records a run for the cross-check: its optimizer's steps, and chosen forward and backward passes."""

from contextlib import AbstractContextManager, nullcontext

import torch

from crosscheck.recorder import Claims, Pass, Recorder, TraceError, Winners, passes_on_record
from distrib.errors import BadInput
from distrib.files import NEEDS_USER
from distrib.layout import TRACE
from distrib.optim.optimizer import options_by_name
from distrib.optim.schedule import RunLength
from distrib.ranks.collectives import gather
from distrib.text import count
from distrib.training.run import Run


def start_recorder(run: Run, *, first_step: int) -> Recorder:
    """Start a recorder of the run's optimizer; it continues the folder's trace, if there is one. Raises BadInput, and OSError."""
    config, training, average = run.config.crosscheck, run.config.training, run.update.average
    length = RunLength(total_updates=run.total_steps, updates_per_epoch=run.plan.steps_per_epoch)
    claims = Claims(  # what the recipe says of all that stands around the optimizer
        clip_norm=training.clip_norm,
        clip_value=training.clip_value,
        average=training.ema,
        averaged=0 if average is None else int(average.n_averaged),
        applied=run.update.applied,
        schedule=run.config.schedule.claim(length),
        options=options_by_name(
            run.config.optimizer, [name for name, p in run.module.named_parameters() if p.requires_grad]
        ),
    )
    try:
        return Recorder(
            run.optimizer,
            run.folder / TRACE,
            steps=config.steps,
            budget=config.budget,
            coordinates=config.coordinates,
            strict=True,  # a run that promises a cross-check does not go on without it
            scaler=run.precision.scaler,
            average=() if average is None else zip(run.module.parameters(), average.module.parameters(), strict=True),
            claims=claims,
            append=True,
            first_step=first_step,
            world_size=run.plan.world_size,
            seed=run.plan.seed,
        )
    except TraceError as error:
        cause = error.__cause__
        if isinstance(cause, OSError) and cause.errno not in NEEDS_USER:
            raise OSError(cause.errno, cause.strerror, str(run.folder / TRACE)) from None
        raise BadInput(f"crosscheck.record = true: {error}") from None


class PassRecorder:
    """Watches the network at the steps of `crosscheck.gradient_steps`, on every rank; rank 0 records.

    A step whose gradient overflowed proves nothing: the next one takes its place.
    """

    def __init__(self, run: Run, steps: tuple[int, ...]) -> None:
        """Raises BadInput."""
        if steps and run.precision.mode == "tf32":
            raise BadInput(
                f"crosscheck.gradient_steps = {list(steps)}: there is no bound for tf32; set precision.mode = no, bf16 or fp16"
            )
        if run.accelerator.is_main_process:
            _say_what_is_missing(run, steps)
        self.run, self._steps, self._postponed = run, frozenset(steps), False
        self._winners: Winners | None = None

    def watching(self, step: int) -> AbstractContextManager[object]:
        """Return a context for the forward and backward passes of the step; it watches the network if they are to be recorded."""
        self._winners = Winners(self.run.module) if self._postponed or step in self._steps else None
        return self._winners or nullcontext()

    def after_backward(self, step: int, recorder: Recorder | None) -> None:
        """Record the passes that were watched. All ranks call it, because it gathers; only rank 0 has a `recorder`."""
        winners, run = self._winners, self.run
        if winners is None:
            return
        gradients = [p.grad for p in run.module.parameters() if p.grad is not None]
        self._postponed = not all(bool(gradient.isfinite().all()) for gradient in gradients)
        if self._postponed:
            return
        # Each has the shape (ranks, parts, share, …).
        everywhere = [gather(run.accelerator, torch.stack(found)) for found in winners.found]
        if recorder is None:
            return
        images, labels, _ = run.batches.whole(step)
        described = Pass(
            step=step,
            network=run.config.model.name,
            compute=run.precision.compute,
            loss_scale=run.precision.scaler.get_scale(),
            label_smoothing=run.config.training.label_smoothing,
            mean=tuple(map(float, run.moments[0])),
            std=tuple(map(float, run.moments[1])),
            training=run.module.training,
            world_size=run.plan.world_size,
            accumulate=run.plan.accumulate,
        )
        recorder.add_pass(
            described,
            images=images,
            labels=labels,
            winners=[run.plan.in_order(found, len(labels)) for found in everywhere],
            parameters=dict(run.module.named_parameters()),
        )


def _say_what_is_missing(run: Run, steps: tuple[int, ...]) -> None:
    """Print a note of those of the steps that an earlier start took and did not record. Raises OSError."""
    done, there = run.resumed.step, passes_on_record(run.folder / TRACE)
    # In float16 a later step stands for one that overflowed.
    latest = max(there, default=0) if run.precision.scaler.is_enabled() else 0
    missing = [step for step in steps if latest < step <= done and step not in there]
    if missing:
        run.display.say(
            f"note: crosscheck.gradient_steps = {list(steps)}: this start continues after {count(done, 'step')}, and of "
            f"{missing} there is no record, so the twin does not compute them; name later steps to have some checked"
        )
