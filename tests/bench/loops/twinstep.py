"""This project's loop: `take_step` as `twinstep train` calls it, recorded if the argument `recorded` is given."""

import os
import sys
import tempfile
from pathlib import Path

from distrib.config.load import load
from distrib.display import Display
from distrib.ranks import world
from distrib.training import loop
from distrib.training.build import build
from distrib.training.observers import Observers
from distrib.training.recipe import RunConfig
from tests.bench import job
from tests.bench.pace import Pace
from tests.support import RECIPES


def main(*, recorded: bool) -> None:
    pace = Pace()
    overrides = [
        "--data.source=synthetic",
        f"--data.train_images={job.BATCH * job.STEPS}",
        "--data.test_images=10",
        f"--training.batch_size={job.BATCH}",
        f"--training.epochs={job.EPOCHS}",
        "--training.clip_norm=none",
        f"--optimizer.lr={job.PEAK_LR}",
        "--precision.mode=no",
        f"--crosscheck.record={str(recorded).lower()}",
    ]
    config = load(RunConfig, RECIPES / "sgd-onecycle.toml", overrides)
    threads = os.environ.get("OMP_NUM_THREADS")
    accelerator = world.start(None if threads is None else int(threads), deterministic=False)
    with tempfile.TemporaryDirectory(prefix="twinstep-bench-") as folder:
        run = build(config, accelerator, Display(main=False, quiet=True), Path(folder), lambda _step: None)
        observers, steps = Observers(run), run.remaining_steps()
        run.model.train()
        while pace.lap():
            for _ in range(job.STEPS):
                step = next(steps)
                loop.take_step(run, step, observers, stop=False, checkpoint=False)
                run.replica_check.after_step(step, saves=False)
        observers.close()
    accelerator.end_training()


if __name__ == "__main__":
    main(recorded="recorded" in sys.argv[1:])
