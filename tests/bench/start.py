"""`python -m tests.bench.start [--images FOLDER] [--rounds 3]` times how long a run takes from its command to its first step.

FOLDER is a folder of images (`train/<class>/`, `test/<class>/`). Its first start decodes them into a cache, the others read that.
The output is a table: medians, least and most.
"""

import argparse
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.gpu import training

RECIPE = "sgd-onecycle"


def first_step(folder: Path, *overrides: str) -> float:
    """Return the seconds from the command to the first line of metrics.jsonl. Raises `training.Failed`."""
    trainer = training.start(RECIPE, folder, ["--output.quiet=true", *overrides])
    try:
        return trainer.wait_for_step(1)
    finally:
        trainer.process.kill()
        trainer.process.communicate()


def main(arguments: Sequence[str] | None = None) -> None:
    """Do what the arguments say."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.start", description=__doc__)
    parser.add_argument("--images", type=Path, help="a folder of images")
    parser.add_argument("--rounds", type=int, default=3, help="starts of each kind (default 3)")
    given = parser.parse_args(arguments)
    if given.rounds < 1:
        parser.error(f"--rounds {given.rounds}: a whole number above 0 is accepted")
    with tempfile.TemporaryDirectory(prefix="start-") as work:
        cases = [("its own images", given.rounds, ("--data.source=synthetic",))]
        if given.images is not None:
            folder = (f"--data.source=folder:{given.images.absolute()}", f"--data.root={work}/cache")
            cases += [("a folder, decoded", 1, folder), ("a folder, from the cache", given.rounds, folder)]
        print("| images | seconds from the command to the first step |\n|---|---|")
        for name, times, overrides in cases:
            took = [first_step(Path(work, f"{name}-{number}"), *overrides) for number in range(times)]
            print(f"| {name} | {statistics.median(took):.1f} [{min(took):.1f}, {max(took):.1f}] |", flush=True)


if __name__ == "__main__":
    main()
