"""The recorder of a run, and what the recipe claims of all that stands around its optimizer."""

from crosscheck.recorder import Claims, Recorder, TraceError
from distrib.errors import BadInput
from distrib.optim import schedule
from distrib.optim.optimizer import options_by_name
from distrib.training.run import Run


def start_recorder(run: Run, *, first_step: int) -> Recorder:
    """A recorder of the run's optimizer that continues the folder's trace, if it has one. Raises BadInput."""
    config, average = run.config.crosscheck, run.update.average
    try:
        return Recorder(
            run.optimizer,
            run.folder / "trace",
            steps=config.steps,
            coordinates=config.coordinates,
            scaler=run.precision.scaler,
            average=() if average is None else zip(run.module.parameters(), average.module.parameters(), strict=True),
            claims=_claims(run),
            append=True,
            first_step=first_step,
            world_size=run.plan.world_size,
            seed=run.plan.seed,
        )
    except TraceError as error:
        raise BadInput(f"crosscheck.record = true: {error}") from None


def _claims(run: Run) -> Claims:
    """What the recipe says of all that stands around the optimizer."""
    training, average = run.config.training, run.update.average
    return Claims(
        clip_norm=training.clip_norm,
        clip_value=training.clip_value,
        average=training.ema,
        averaged=0 if average is None else int(average.n_averaged),
        applied=run.update.applied,
        schedule=schedule.claim(
            run.config.schedule, total_updates=run.total_steps, updates_per_epoch=run.plan.steps_per_epoch
        ),
        options=options_by_name(run.config.optimizer, [name for name, _ in run.module.named_parameters()]),
    )
