"""A run that continues from any of its checkpoints ends, bit for bit, as the run that was never interrupted.

`make test` takes a few cells in which every pair of values occurs; `make matrix` takes them all.
"""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import tomli_w

from tests.matrix import overflow
from tests.matrix.cells import KERNELS, OPTIMIZERS, OVERFLOWS, pairs_of, pairwise
from tests.support import checkpoint_of, read_json, tensor_bytes, train_well

STEPS = 8  # in two epochs
CONTINUED_AFTER = {"mid-epoch": (3,), "epoch end": (4,), "last step": (7, 8)}
EXTRAS: dict[str, dict[str, dict[str, object]]] = {
    "ema": {"training": {"ema": 0.9}},
    "accumulate": {"training": {"accumulate": 2}},
    "onecycle": {"schedule": {"name": "onecycle"}},
}
# Steps 1 and 7 overflow. In between the scale grows once, after four steps without overflow (2 to 5). So a run that continues
# after step 3 or 4 continues in the middle of this count.
SCALED: dict[str, object] = {"mode": "fp16", "force": True, "init_scale": 1024.0, "growth_interval": 4}
SAME = ("test_accuracy", "test_loss", "train_loss", "steps", "applied_updates", "skipped_steps", "weights_sha256")


class Cell(NamedTuple):
    """One cell of the matrix: one way to train, and where to continue."""

    optimizer: str
    kernels: str
    ranks: int
    continued: str
    fp16: bool
    extra: str

    def __str__(self) -> str:
        precision = "fp16" if self.fp16 else "fp32"
        where = self.continued.replace(" ", "-")
        return f"{self.optimizer}-{self.kernels}-{self.ranks}rank-{where}-{precision}-{self.extra}"


CELLS = list(
    itertools.starmap(
        Cell,
        itertools.product(("sgd", "adam"), ("fused", "foreach"), (1, 2, 4), CONTINUED_AFTER, (False, True), EXTRAS),
    )
)
CHOSEN = pairwise(CELLS)

Train = Callable[[Cell], Path]


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Train:
    """A function that returns the folder of an uninterrupted run with all its checkpoints.

    Cells that differ only in where they continue share one such run.
    """
    done: dict[Cell, Path] = {}

    def trained(cell: Cell) -> Path:
        cell = cell._replace(continued="")
        if cell not in done:
            done[cell] = tmp_path_factory.mktemp("straight") / "run"
            run(cell, done[cell], "--checkpoint.every_steps=1", "--checkpoint.keep=99")
        return done[cell]

    return trained


def run(cell: Cell, folder: Path, *options: str) -> dict[str, Any]:
    """Train the cell in the folder and return the summary."""
    recipe = folder.with_suffix(".toml")
    recipe.write_text(tomli_w.dumps(recipe_of(cell)))
    plant = overflow.plant if cell.fp16 else None
    return train_well(folder, *options, recipe=recipe, world_size=cell.ranks, plant=plant)


def recipe_of(cell: Cell) -> dict[str, dict[str, object]]:
    extra = EXTRAS[cell.extra]
    # Each part of four ranks gets one image only, since float16 is slow on a CPU.
    batch = 8 if cell.extra == "accumulate" else 4
    return {
        "data": {"source": "synthetic", "train_images": batch * STEPS // 2, "test_images": 10},
        "training": {"epochs": 2, "batch_size": batch, "threads": 1, **extra.get("training", {})},
        "optimizer": {"name": cell.optimizer, **OPTIMIZERS[cell.optimizer], **KERNELS[cell.kernels]},
        "schedule": extra.get("schedule", {"name": "constant"}),
        "precision": SCALED if cell.fp16 else {},
        "crosscheck": {"record": False},
    }


def values(checkpoint: Path) -> dict[str, Any]:
    """Return all values of a checkpoint that are not tensors, such as counts and the loss scale.

    The recipe is left out, because it says where the run continued.
    """
    found = read_json(checkpoint / "manifest.json")["values"]
    del found["config"]
    return found


def test_every_pair_of_values_is_in_some_cell_that_runs_by_default() -> None:
    assert len(CELLS) == 216
    assert set[object]().union(*map(pairs_of, CHOSEN)) == set[object]().union(*map(pairs_of, CELLS))
    assert len(CHOSEN) < 15


def marks(cell: Cell) -> list[pytest.MarkDecorator]:
    """Return the marks of a cell. Cells that share an uninterrupted run are one group, so one worker runs them."""
    shared = pytest.mark.xdist_group(str(cell._replace(continued="")))
    return [shared] if cell in CHOSEN else [shared, pytest.mark.matrix]


@pytest.mark.parametrize("cell", [pytest.param(cell, marks=marks(cell)) for cell in CELLS], ids=str)
def test_continued(cell: Cell, straight: Train, tmp_path: Path) -> None:
    whole = straight(cell)
    summary = read_json(whole / "summary.json")
    assert (summary["steps"], summary["skipped_steps"]) == (STEPS, len(OVERFLOWS) if cell.fp16 else 0)
    for step in CONTINUED_AFTER[cell.continued]:
        folder = tmp_path / str(step)
        resumed = run(cell, folder, f"--checkpoint.resume={checkpoint_of(whole, step)}")
        assert resumed["resumed_from"] == str(checkpoint_of(whole, step))
        assert {key: resumed[key] for key in SAME} == {key: summary[key] for key in SAME}
        if step < STEPS:  # otherwise nothing was left to train and save
            ends = [checkpoint_of(path, STEPS) for path in (folder, whole)]
            assert tensor_bytes(ends[0]) == tensor_bytes(ends[1])
            assert values(ends[0]) == values(ends[1])


def test_the_loss_scale_lives(straight: Train) -> None:
    """The loss scale backs off and grows, and where runs continue some of the steps before its next growth have been taken."""
    whole = straight(Cell("sgd", "fused", 1, "", fp16=True, extra="onecycle"))
    scalers = [values(checkpoint_of(whole, step))["scaler"] for step in range(1, STEPS + 1)]
    assert [scaler["scale"] for scaler in scalers] == [512, 512, 512, 512, 1024, 1024, 512, 512]
    assert [scaler["_growth_tracker"] for scaler in scalers] == [0, 1, 2, 3, 0, 1, 0, 1]
