"""Cells of the matrix are trained by the real trainer in its own processes, recorded and replayed.

`make test` takes a few in which every pair of values occurs; `make matrix` takes them all.
"""

from pathlib import Path

import pytest
import tomli_w

from tests.matrix import overflow
from tests.matrix.alarms import one_cycle, replay_without_alarm
from tests.matrix.cells import CELLS, Cell, pairs_of, pairwise
from tests.support import steps, train_well

STEPS = 8
BATCH = 6  # an image for each part of each rank: a CPU emulates float16
CHOSEN = pairwise(CELLS)


def test_every_pair_of_values_is_in_some_cell_that_runs_by_default() -> None:
    assert set[object]().union(*map(pairs_of, CHOSEN)) == set[object]().union(*map(pairs_of, CELLS))
    assert len(CHOSEN) < 15


@pytest.mark.parametrize(
    "cell", [pytest.param(cell, marks=() if cell in CHOSEN else pytest.mark.matrix) for cell in CELLS], ids=str
)
def test_cell(cell: Cell, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(tomli_w.dumps(recipe_of(cell)))
    plant = overflow.plant if cell.overflows else None
    summary = train_well(tmp_path / "run", recipe=recipe, world_size=cell.ranks, plant=plant)
    applied = [step not in cell.overflows for step in range(1, STEPS + 1)]

    assert (summary["steps"], summary["applied_updates"]) == (STEPS, sum(applied))
    assert summary["skipped_steps"] == len(cell.overflows)
    assert summary["world_size"] == cell.ranks
    assert summary["precision"] == cell.precision
    assert summary["fused"] is (cell.kernels == "fused")

    lines = steps(tmp_path / "run")
    updates = [sum(applied[: step + 1]) for step in range(STEPS)]
    assert [line["applied"] for line in lines] == applied
    assert [line["applied_updates"] for line in lines] == updates
    rates = one_cycle(cell.options()["lr"], STEPS)
    before = [0, *updates[:-1]]
    assert [line["lr"] for line in lines] == pytest.approx([rates[count] for count in before], rel=1e-12)

    replay_without_alarm(tmp_path / "run" / "trace", cell, STEPS)


def recipe_of(cell: Cell) -> dict[str, dict[str, object]]:
    training: dict[str, object] = {
        "epochs": 1,
        "batch_size": BATCH,
        "accumulate": cell.accumulate,
        "ema": 0.9,
        "threads": 1,
    }
    return {
        "data": {"source": "synthetic", "train_images": BATCH * STEPS, "test_images": 10},
        "training": training | ({"clip_norm": 0.5} if cell.clip else {}),
        "optimizer": cell.options(),
        "schedule": {"name": "onecycle"},
        "precision": {"mode": cell.precision, "force": True, "init_scale": 1024.0},
        "crosscheck": {"record": True, "replay": False},
    }
