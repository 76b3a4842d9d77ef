"""The gradient of a global batch is the same for any number of ranks, at every step."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file  # pyright: ignore[reportUnknownVariableType]

from crosscheck import Verdict, replay
from tests.support import train_well

STEPS = 50


@pytest.mark.matrix
def test_the_gradient_does_not_depend_on_the_number_of_ranks(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """Each gradient is recomputed from the weights of its own run. How far these drift apart is reported and not judged."""
    weights: dict[int, dict[str, torch.Tensor]] = {}
    for ranks in (1, 2, 4):
        folder = tmp_path / str(ranks)
        train_well(
            folder,
            "--data.source=synthetic",
            f"--data.train_images={32 * STEPS}",
            "--data.test_images=20",
            "--training.batch_size=32",
            "--training.epochs=1",
            "--crosscheck.replay=false",
            f"--crosscheck.gradient_steps={list(range(1, STEPS + 1))}",
            world_size=ranks,
        )
        report = replay(folder, require=["gradient"])
        assert report.verdict is Verdict.MATCH, str(report)
        assert sum("gradient of step" in note for note in report.notes) == STEPS
        weights[ranks] = load_file(folder / "checkpoints" / f"step-{STEPS:08d}" / "model.safetensors")
    for ranks in (2, 4):
        drift = max(
            float((weights[ranks][name] - alone).abs().max() / alone.abs().max()) for name, alone in weights[1].items()
        )
        record_property(f"drift of the weights, {ranks} ranks", drift)
