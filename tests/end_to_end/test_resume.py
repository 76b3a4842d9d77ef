"""A resumed run with many options at once, which the matrix of resumed runs (tests/matrix/test_resume.py) lacks."""

from pathlib import Path

from tests.support import RECIPES, SMALL, checkpoint_of, tensor_bytes, train_well

# Each epoch ends with a short batch, whose parts and shares are uneven. The run continues after step 9 of 22, before the
# first of these.
OPTIONS = (
    *SMALL,
    "--data.train_images=170",
    "--training.last_batch=mask",
    "--training.accumulate=2",
    "--training.clip_norm=0.5",
    "--training.label_smoothing=0.1",
    "--training.ema=0.9",
    "--optimizer.amsgrad=true",
)


def test_everything_at_once_in_a_short_epoch(tmp_path: Path) -> None:
    straight, folder = tmp_path / "straight", tmp_path / "resumed"
    recipe = RECIPES / "adam-onecycle.toml"
    keep = ("--checkpoint.every_steps=9", "--checkpoint.keep=9")
    whole = train_well(straight, *OPTIONS, *keep, recipe=recipe, world_size=2)
    resume = f"--checkpoint.resume={checkpoint_of(straight, 9)}"
    resumed = train_well(folder, *OPTIONS, resume, recipe=recipe, world_size=2)
    assert resumed["resumed_from"] == str(checkpoint_of(straight, 9))
    assert resumed["weights_sha256"] == whole["weights_sha256"]
    assert tensor_bytes(checkpoint_of(folder, whole["steps"])) == tensor_bytes(checkpoint_of(straight, whole["steps"]))
