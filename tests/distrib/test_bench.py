"""The bench measures a training that goes on as training does."""

from pathlib import Path

from distrib import bench
from distrib.config.load import load
from distrib.display import Display
from distrib.ranks import world
from distrib.training.recipe import RunConfig
from distrib.training.run import build
from tests.support import QUICKSTART, SMALL

WILD = ("--schedule.name=constant", "--optimizer.lr=1e4", "--optimizer.weight_decay=0", "--training.clip_norm=1e-7")


def test_the_bare_steps_leave_the_training_as_it_is(tmp_path: Path) -> None:
    """Bare steps clip nothing, and at this rate they throw the weights far away."""
    config = load(RunConfig, QUICKSTART, [*SMALL, *WILD])
    run = build(config, world.start(1, deterministic=False), Display(main=True, quiet=True), tmp_path, lambda _: None)
    timings, trace_bytes = bench.measure(run, rounds=1, part=4)
    assert set(timings) >= {"whole loop", "recorded", "bare step", "checkpoint"}
    assert all(len(seconds) == 1 and min(seconds) > 0 for seconds in timings.values())
    assert trace_bytes > 1000
    assert all(parameter.abs().max() < 10 for parameter in run.model.parameters())
