"""Finds the checkpoint that `checkpoint.resume` means, and refuses one that the run may not continue."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from distrib.checkpoint import state, store
from distrib.checkpoint.config import CheckpointConfig
from distrib.checkpoint.differences import differences, refuse_another_run, refuse_nothing_to_train, to_train_on
from distrib.checkpoint.progress import Progress
from distrib.checkpoint.values import Identity, Inference, Saved, checked
from distrib.display import Display
from distrib.errors import BadInput
from distrib.job.run_folder import files_in_the_way
from distrib.job.status import is_of_a_run
from distrib.layout import CHECKPOINTS, STATUS, SUMMARY
from distrib.optim.update import Update
from distrib.ranks.collectives import on_every_rank, on_main
from distrib.text import count


@dataclass(frozen=True, slots=True)
class Resumed:
    """Where the run starts. A fresh run has step 0 and no path."""

    step: int = 0
    path: Path | None = None
    progress: Progress = field(default_factory=Progress)


@dataclass(frozen=True, kw_only=True, slots=True)
class Expected:
    """What the run is that wants to continue, to compare a checkpoint with."""

    keys: Mapping[str, Any]
    """Its dotted configuration keys: what changed in them since is said."""
    non_default: Collection[str]
    """Keys whose values are not their defaults. One that the checkpoint does not know is newer than it,
    and is said if it is among them."""
    identity: Identity
    total_steps: int
    enough: Callable[[Progress], str | None]
    """Says why a run that has come so far ends before its last step, or None if it goes on."""

    def is_over(self, step: int, progress: Progress) -> bool:
        """Return whether a run that stands here has nothing left to train."""
        return step == self.total_steps or self.enough(progress) is not None


def continue_from(
    config: CheckpointConfig,
    folder: Path,
    expected: Expected,
    accelerator: Accelerator,
    display: Display,
    update: Update,
) -> Resumed:
    """Find, verify and load the checkpoint that `config.resume` means. Raises BadInput on every rank.

    A checkpoint that leaves nothing to train is only taken if nothing that matters has changed since, or old results would pass
    for those of the new values.
    """
    found = on_main(accelerator, lambda: _find(config, folder, display))
    if found is None:
        return Resumed()

    def load() -> Resumed:
        keys, identity = expected.keys, expected.identity
        checkpoint = _open(Path(found))
        saved = checked(checkpoint.path, checkpoint.step, checkpoint.values)
        progress = _progress(saved)
        refuse_another_run(checkpoint.path, saved, keys, identity)
        _refuse_beyond(checkpoint.path, checkpoint.step, expected)
        if expected.is_over(checkpoint.step, progress):
            remedy = to_train_on(early=checkpoint.step < expected.total_steps)
            refuse_nothing_to_train(checkpoint.path, saved, keys, remedy)
        for line in differences(checkpoint.path, saved, keys, identity, expected.non_default):
            display.say(line)
        same_optimizer = all(saved.config.get(key) == keys[key] for key in keys if key.startswith("optimizer."))
        state.restore(checkpoint, saved, update, same_optimizer=same_optimizer)
        if not update.is_finite():
            raise BadInput(_not_finite(checkpoint, update))
        return Resumed(checkpoint.step, checkpoint.path, progress)

    resumed = on_every_rank(accelerator, load)
    best = resumed.progress.best_step
    goes_on = resumed.progress.evaluation_pending or not expected.is_over(resumed.step, resumed.progress)
    if config.best and best is not None and goes_on:
        kept = store.checkpoint_path(folder / CHECKPOINTS, best)
        if not on_main(accelerator, kept.is_dir):
            display.say(
                f"note: the best checkpoint so far would be {kept}, which is not there, so that checkpoint.best and "
                "training.patience count from here on"
            )
            return replace(resumed, progress=resumed.progress.without_best())
    return resumed


def metadata(keys: Mapping[str, Any], identity: Identity, inference: Inference, progress: Progress) -> dict[str, Any]:
    """Return what a checkpoint says about its run, for `continue_from` to read, and what using its network takes."""
    return {
        "config": dict(keys),
        "identity": identity.model_dump(),
        "inference": inference.model_dump(),
        **asdict(progress),
    }


def refuse_files_of_others(folder: Path) -> None:
    """Raise BadInput if the folder is not one of a run, and holds files that have the names of those that a run writes.

    One of a run has a status.json, which a start writes before anything else, or checkpoints, which may have been copied there.
    """
    if is_of_a_run(folder / STATUS) or store.candidates(folder / CHECKPOINTS):
        return
    if names := files_in_the_way(folder):
        raise BadInput(
            f"output.dir = {folder} is not the folder of a run, and holds files that a run would overwrite "
            f"({', '.join(names)}): choose another folder"
        )


def refuse_leftovers(config: CheckpointConfig, folder: Path) -> None:
    """Raise BadInput if the run would overwrite checkpoints or results of an earlier one in its folder.

    `never` needs a folder without checkpoints, and so does a run that goes back to an earlier checkpoint. One that did so and
    was stopped goes on from its own checkpoints.
    """
    there = store.candidates(folder / CHECKPOINTS)
    if not there and config.resume in ("auto", "never"):
        _refuse_results(folder, "no checkpoint")
    if config.resume not in ("auto", "never") and there and there[0].resolve() != Path(config.resume).resolve():
        newest, _ = store.newest_valid(folder / CHECKPOINTS)
        if newest is None or not _went_on_from(config.resume, newest):
            raise BadInput(
                f"checkpoint.resume = {config.resume}, but {folder} holds {there[0].name}, which no run from that path wrote: a "
                "run that goes back needs a folder of its own; choose another output.dir, or take --checkpoint.resume auto to "
                "continue the run in this one"
            )
    if config.resume == "never" and there:
        raise BadInput(
            f"checkpoint.resume = never, but {folder} holds checkpoints of an earlier run: choose another "
            "output.dir, or take --checkpoint.resume auto to continue it"
        )


def _find(config: CheckpointConfig, folder: Path, display: Display) -> str | None:
    if config.resume == "never":
        return None
    newest, passed = store.newest_valid(folder / CHECKPOINTS)
    if config.resume != "auto":
        if newest is None or not _went_on_from(config.resume, newest):
            return config.resume
        display.say(
            f"note: {folder} holds a run that went on from {config.resume}, so it goes on from its own newest checkpoint"
        )
    for line in passed:
        display.say(line)
    if newest is None:
        _refuse_results(folder, "no valid checkpoint")
    return None if newest is None else str(newest.path)


def _went_on_from(path: str, newest: store.Checkpoint) -> bool:
    """Return whether the start that wrote the newest checkpoint in a folder was given this path as `checkpoint.resume`."""
    given = checked(newest.path, newest.step, newest.values).config.get("checkpoint.resume")
    return isinstance(given, str) and Path(given).resolve() == Path(path).resolve()


def _refuse_results(folder: Path, found: str) -> None:
    """Raise BadInput if the folder has the results of a complete run, which one from the first step would overwrite."""
    if (folder / SUMMARY).exists():
        raise BadInput(
            f"output.dir = {folder} holds the results of a complete run (summary.json) and {found}, so the run would begin "
            "anew and overwrite them: choose another output.dir, or continue a checkpoint of the run that is elsewhere "
            "(--checkpoint.resume PATH), or move summary.json away to start anew here"
        )


def _open(path: Path) -> store.Checkpoint:
    try:
        return store.open_checkpoint(path)
    except store.Damaged as error:
        raise BadInput(
            f"checkpoint.resume = {path}: {error}; give the path of a checkpoint folder (…/checkpoints/step-00000390) "
            "that every rank can read, or auto for the newest valid one"
        ) from None


def _not_finite(checkpoint: store.Checkpoint, update: Update) -> str:
    """Return what refuses a checkpoint of which not all weights are finite: where to go on instead.

    Older checkpoints are put into `update` until one of them is finite.
    """
    remedy = "none of the older ones beside it can be continued either: start a new run (another output.dir)"
    for path in store.candidates(checkpoint.path.parent):
        if store.step_of(path) >= checkpoint.step:
            continue
        try:
            older = store.open_checkpoint(path)
            saved = checked(older.path, older.step, older.values)
            state.restore(older, saved, update, same_optimizer=False)
        except (store.Damaged, BadInput):
            continue
        if update.is_finite():
            remedy = f"go on from {path} in a folder of its own (--checkpoint.resume {path}, and another output.dir)"
            break
    return (
        f"checkpoint {checkpoint.path} holds weights, or a moving average of them, that are not finite, and no update makes them "
        f"finite again: {remedy}"
    )


def _refuse_beyond(path: Path, step: int, expected: Expected) -> None:
    """Raise BadInput for a checkpoint beyond the run's last step."""
    if step > expected.total_steps:
        raise BadInput(
            f"checkpoint {path} is at step {step}, beyond the {count(expected.total_steps, 'step')} of training.epochs = "
            f"{expected.keys['training.epochs']}: raise training.epochs, or start a new run (another output.dir)"
        )


def _progress(saved: Saved) -> Progress:
    return Progress(
        saved.epoch_loss,
        saved.train_loss,
        saved.evaluation_pending,
        saved.best_accuracy,
        saved.best_step,
        saved.epochs_without_gain,
    )
