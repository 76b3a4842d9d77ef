"""A resumed run ends with the same bytes as one that was never interrupted."""

from pathlib import Path

import pytest

from tests.support import RECIPES, SMALL, train_well

MIDDLE, EPOCH_END = 7, 10  # of twenty steps

OPTIMIZERS = {
    "sgd": (RECIPES / "sgd-onecycle.toml", ()),
    "adam": (RECIPES / "adam-onecycle.toml", ("--training.ema=0.9", "--training.accumulate=2")),
}


@pytest.mark.parametrize("world_size", [1, 2, 4])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_final_weights_are_bit_identical(tmp_path: Path, optimizer: str, world_size: int) -> None:
    recipe, options = OPTIMIZERS[optimizer]
    keep = ("--checkpoint.every_steps=1", "--checkpoint.keep=99")
    straight = train_well(tmp_path / "straight", *SMALL, *options, *keep, recipe=recipe, world_size=world_size)
    for step in (MIDDLE, EPOCH_END):
        checkpoint = tmp_path / "straight" / "checkpoints" / f"step-{step:08d}"
        resume = f"--checkpoint.resume={checkpoint}"
        resumed = train_well(tmp_path / str(step), *SMALL, *options, resume, recipe=recipe, world_size=world_size)
        assert resumed["resumed_from"] == str(checkpoint)
        assert resumed["weights_sha256"] == straight["weights_sha256"], f"resumed at step {step}"
        assert resumed["test_loss"] == straight["test_loss"]


def test_fp16_resumes_with_its_loss_scale(tmp_path: Path) -> None:
    fp16 = (
        "--precision.mode=fp16",
        "--precision.force=true",
        "--precision.init_scale=1e9",
        "--precision.growth_interval=4",
    )
    keep = ("--checkpoint.every_steps=1", "--checkpoint.keep=99")
    straight = train_well(tmp_path / "straight", *SMALL, *fp16, *keep)
    for step in (1, MIDDLE):
        resume = f"--checkpoint.resume={tmp_path / 'straight' / 'checkpoints' / f'step-{step:08d}'}"
        resumed = train_well(tmp_path / str(step), *SMALL, *fp16, resume)
        assert resumed["weights_sha256"] == straight["weights_sha256"]
        assert resumed["skipped_steps"] == straight["skipped_steps"]


def test_auto_passes_over_a_damaged_checkpoint(tmp_path: Path) -> None:
    straight = train_well(tmp_path / "straight", *SMALL)
    folder = tmp_path / "damaged"
    train_well(folder, *SMALL, "--training.epochs=1", "--checkpoint.every_steps=4")
    part = folder / "checkpoints" / "step-00000010" / "model.safetensors"
    part.write_bytes(part.read_bytes()[:-1])
    resumed = train_well(folder, *SMALL)
    assert resumed["resumed_from"] == str(folder / "checkpoints" / "step-00000008")
    # The one-cycle schedule of the first run was that of one epoch, so only the steps agree.
    assert resumed["steps"] == straight["steps"]
