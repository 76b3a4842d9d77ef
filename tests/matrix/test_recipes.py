"""A thousand steps of every recipe, in every precision that a CPU has, give no false alarm.

Small batches of drawn images take the place of the recipe's own; all else is as the recipe says. With `-rP` pytest prints
the worst eta of each.
"""

import tomllib
from pathlib import Path

import pytest

from crosscheck import Verdict, replay
from crosscheck.tolerance import WARN
from tests.support import RECIPES, read_json, start

STEPS = 1000
BATCH = {
    "no": 4,
    "bf16": 4,
    "fp16": 2,
}  # a CPU that emulates float16 takes 0.1 s an image, twenty times as long as in bfloat16
FEWER = {("resnet18", "fp16"): 400}
"""Of these a step takes more than a second there."""
SECONDS = 800


@pytest.mark.matrix
@pytest.mark.timeout(900)
@pytest.mark.parametrize("precision", BATCH)
@pytest.mark.parametrize("recipe", sorted(RECIPES.glob("*.toml")), ids=lambda recipe: recipe.stem)
def test_a_thousand_steps_do_not_alarm(recipe: Path, precision: str, tmp_path: Path) -> None:
    epochs = tomllib.loads(recipe.read_text(encoding="utf-8"))["training"]["epochs"]
    steps = FEWER.get((recipe.stem, precision), STEPS)
    per_epoch = -(-steps // epochs)
    options = (
        "--data.source=synthetic",
        f"--data.train_images={per_epoch * BATCH[precision]}",
        "--data.test_images=10",
        f"--training.batch_size={BATCH[precision]}",
        "--training.threads=1",
        f"--precision.mode={precision}",
        "--precision.force=true",
        "--crosscheck.record=true",
        "--crosscheck.replay=false",
    )
    [result] = start([recipe, *options, "--output.dir", tmp_path]).wait(SECONDS)
    assert result.code == 0, result
    summary = read_json(tmp_path / "summary.json")
    assert summary["steps"] == per_epoch * epochs >= steps
    report = replay(tmp_path)
    print(f"{recipe.stem} {precision}: {report.steps} steps, {report.skipped} skipped, worst eta {report.max_eta:.2f}")
    assert report.verdict is Verdict.MATCH, str(report)
    assert not report.warnings, report.warnings
    assert report.max_eta <= WARN
    assert report.steps == summary["steps"]
