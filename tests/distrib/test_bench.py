"""The bench measures a training that goes on as training does."""

from pathlib import Path
from typing import Any

import numpy
import pytest
from torch import Tensor, nn

from distrib import bench
from distrib.config.load import load
from distrib.display import Display
from distrib.ranks import world
from distrib.training.build import build
from distrib.training.recipe import RunConfig
from distrib.training.run import Run
from tests.support import QUICKSTART, SMALL

WILD = ("--schedule.name=constant", "--optimizer.lr=1e4", "--optimizer.weight_decay=0", "--training.clip_norm=1e-7")


def built(folder: Path, *options: str) -> Run:
    config = load(RunConfig, QUICKSTART, [*SMALL, *options])
    return build(config, world.start(1, deterministic=False), Display(main=True, quiet=True), folder, lambda _: None)


def test_the_bare_steps_leave_the_training_as_it_is(tmp_path: Path) -> None:
    """Bare steps clip nothing, and at this rate they throw the weights far away."""
    run = built(tmp_path, *WILD)
    timings, trace_bytes = bench.measure(run, rounds=1, part=4)
    assert set(timings) >= {"whole loop", "recorded", "bare step", "checkpoint"}
    assert all(len(seconds) == 1 and min(seconds) > 0 for seconds in timings.values())
    assert trace_bytes > 1000
    assert all(parameter.abs().max() < 10 for parameter in run.model.parameters())


def test_all_of_them_train_on_as_many_images(tmp_path: Path) -> None:
    run = built(tmp_path, "--training.accumulate=4")
    seen: list[int] = []

    def count(_network: nn.Module, given: tuple[Tensor], _logits: Any) -> None:
        seen.append(len(given[0]))

    with run.module.register_forward_hook(count):
        bench.measure(run, rounds=1, part=4)
    blocks, steps = 2, 10 + 4 + 10  # the whole loop, recorded steps, and bare ones
    assert sum(seen) == blocks * steps * 16
    assert set(seen) == {4}


def test_a_run_of_two_classes(tmp_path: Path) -> None:
    rng, file = numpy.random.default_rng(0), tmp_path / "two.npz"
    images, labels = rng.integers(0, 256, (64, 32, 32, 3), dtype=numpy.uint8), numpy.arange(64) % 2
    numpy.savez(file, x_train=images, y_train=labels, x_test=images, y_test=labels)
    own = ("--data.train_images=64", "--data.test_images=64")
    timings, _ = bench.measure(built(tmp_path, f"--data.source=npz:{file}", *own), rounds=1, part=4)
    assert len(timings["bare step"]) == 1


def test_another_number_of_processes_than_the_recipe_wants(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.main(["quickstart", *SMALL, "--training.world_size=2"]) == 2
    assert "training.world_size = 2" in capsys.readouterr().err
