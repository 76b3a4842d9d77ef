"""`python -m distrib.checkpoint.bench [MILLIONS]`: a checkpoint of a large network with Adam, beside a plain copy.

Saves (written, synced, hashed, read back from the disk and hashed again) and copies of the same files (written and
synced) alternate on the disk of the current folder, so that a disk whose speed drifts drifts for both. Prints a table.
"""

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

import torch

from distrib.checkpoint import store

_ROUNDS = 5
_LAYERS = 50


def main(arguments: Sequence[str]) -> None:
    millions = int(arguments[0]) if arguments else 100
    weights = {f"{layer}.weight": torch.randn(millions * 10**6 // _LAYERS) for layer in range(_LAYERS)}
    state = {f"{slot}/{name}": value.clone() for slot in ("exp_avg", "exp_avg_sq") for name, value in weights.items()}
    seconds: dict[str, list[float]] = {"checkpoint": [], "plain copy": []}
    with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix=".bench-") as name:
        folder, written = Path(name), Path()

        def save() -> None:
            nonlocal written
            written = store.save(folder, 1, {"model": weights, "optimizer": state}, {}, keep=1)

        for _ in range(_ROUNDS + 1):
            seconds["checkpoint"].append(_time(save))
            seconds["plain copy"].append(_time(lambda: copy_synced(written, folder / "copy")))
        size = sum(file.stat().st_size for file in written.iterdir()) / 1e9
    print(f"{millions} million parameters with Adam, {size:.2f} GB; {_ROUNDS} rounds, median [least, most]")
    warm = {what: each[1:] for what, each in seconds.items()}  # the first round makes room
    for what, each in warm.items():
        rates = sorted(one / size for one in each)
        print(f"  {what:<10} {median(rates):6.2f} s a GB [{rates[0]:.2f}, {rates[-1]:.2f}]")
    ratios = sorted(a / b for a, b in zip(*warm.values(), strict=True))
    print(f"  checkpoint / plain copy, round by round: {median(ratios):.2f} [{ratios[0]:.2f}, {ratios[-1]:.2f}]")


def copy_synced(source: Path, target: Path) -> None:
    """Copy the files of a folder, each written and synced."""
    target.mkdir(exist_ok=True)
    for file in source.iterdir():
        with file.open("rb") as reading, (target / file.name).open("wb") as writing:
            shutil.copyfileobj(reading, writing, 2**20)
            writing.flush()
            os.fsync(writing.fileno())


def _time(work: Callable[[], None]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


if __name__ == "__main__":
    main(sys.argv[1:])
