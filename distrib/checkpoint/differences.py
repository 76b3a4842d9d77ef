"""Compares a run with the one that wrote its checkpoint: some changes make it another run, the others are only said."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from distrib.checkpoint.values import Identity, Saved
from distrib.errors import BadInput

# Another value of these, by their keys in the recipe, is another run: step s would mean other images.
_MUST_MATCH = {"batch_size": "training.batch_size", "last_batch": "training.last_batch", "seed": "training.seed"}
# What decides which images a run has, and their pixels. Their fingerprint says whether they are others.
_IMAGES = (
    *("data.source", "data.root", "data.download", "data.image_column", "data.label_column"),
    *("data.image_size", "data.train_images", "data.test_images"),
)
_NO_EFFECT = ("checkpoint", "output", "crosscheck")  # sections that do not touch the weights
_RECORD = "crosscheck.record"
# Once the run is complete, only these may have other values: the results in its folder are the same whatever they are.
_ANY_VALUE = {
    *_IMAGES,
    *("training.eval_batch_size", "training.threads", "training.world_size", "training.check_ranks_every"),
    *("training.start_timeout_seconds", "training.timeout_seconds", "precision.force"),
    *("output.dir", "output.quiet", "crosscheck.replay", "crosscheck.live"),
}


def refuse_another_run(path: Path, saved: Saved, keys: Mapping[str, Any], identity: Identity) -> None:
    """Raise BadInput for a checkpoint of a run with other images, or another order of them."""
    there, here = saved.identity.model_dump(), identity.model_dump()
    for fact, key in _MUST_MATCH.items():
        if there[fact] != here[fact]:
            raise BadInput(
                f"checkpoint {path} is of a run with another {key} ({there[fact]} then, {here[fact]} now), so its steps mean "
                "other images: set it back, or start a new run (another output.dir)"
            )
    if saved.identity.dataset != identity.dataset:
        changed = [key for key in _IMAGES if key in saved.config and saved.config[key] != keys.get(key)]
        why = ", ".join(f"{key} was {saved.config[key]} and is {keys.get(key)}" for key in changed)
        raise BadInput(
            f"checkpoint {path} is of a run with other images: "
            + (f"{why}; set it back" if changed else "those that data.source means have changed; put the old ones back")
            + ", or start a new run (another output.dir)"
        )


def differences(
    path: Path, saved: Saved, keys: Mapping[str, Any], identity: Identity, non_default: Collection[str]
) -> list[str]:
    """Return a line that names the checkpoint, and one for each kind of difference, none of which makes it another run."""
    there, here = saved.identity.model_dump(), identity.model_dump()
    changed = [  # those of the identity that did: they matter to the last bits only
        f"{fact} {there[fact]} -> {here[fact]}" for fact in here if fact != "precision" and there[fact] != here[fact]
    ]
    lines = [f"continuing from {path}"]
    if changed:
        lines.append(f"note: {', '.join(changed)} since then, so the last bits will differ from an undisturbed run")
    then = saved.config
    if there["precision"] != here["precision"]:
        lines.append(
            f"note: the run took precision {there['precision']} and goes on in {here['precision']}, so its results will differ "
            f"from those of an undisturbed run: --precision.mode {there['precision']} goes on as before"
        )
    other = [
        f"{key} {then.get(key)} -> {value}"
        for key, value in keys.items()
        if key.partition(".")[0] not in _NO_EFFECT and (then[key] != value if key in then else key in non_default)
    ]
    if other:
        lines.append(f"note: changed since then: {', '.join(other)}")
    return lines


def refuse_nothing_to_train(path: Path, saved: Saved, keys: Mapping[str, Any], remedy: str) -> None:
    """Raise BadInput for the last checkpoint of a run that was another one."""
    then = saved.config
    changed = [  # a key that the checkpoint does not know came after it, or belongs to another optimizer, whose name differs
        f"{key} = {value} ({then[key]} then)"
        for key, value in keys.items()
        if key in then and then[key] != value and not _may_change(key, keys)
    ]
    if changed:
        raise BadInput(
            f"{path} is the last checkpoint of a complete run with another configuration, {', '.join(changed)}: set it back "
            f"to see its results, {remedy} to train on, or start a new run (another output.dir)"
        )


def to_train_on(*, early: bool) -> str:
    """Return what to change for a complete run to go on; `early` says that it ended before its last epoch."""
    return "raise or unset training.stop_at_accuracy and training.patience" if early else "raise training.epochs"


def _may_change(key: str, keys: Mapping[str, Any]) -> bool:
    """Return whether the results of a complete run answer for another value of this key as well."""
    section = key.partition(".")[0]
    return key in _ANY_VALUE or section == "checkpoint" or (section == "crosscheck" and not keys.get(_RECORD))
