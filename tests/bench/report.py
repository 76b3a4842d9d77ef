"""What the contest found, as it is kept in a file."""

import json
import os
import platform
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

from tests.bench.contest import Taken
from tests.bench.entrants import Epoch
from tests.support import processor

_PACKAGES = ("torch", "accelerate", "lightning", "timm", "jax", "optax")


@dataclass(frozen=True, slots=True)
class Report:
    """Epochs by entrant and round, and where they were trained."""

    processor: str
    cores: int
    python: str
    versions: dict[str, str]
    steps: int
    batch: int
    taken: Taken

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")


def read(path: Path) -> Report:
    """Return the report in a file that `write` wrote."""
    fields = json.loads(path.read_text(encoding="utf-8"))
    taken = {name: [Epoch(**epoch) for epoch in epochs] for name, epochs in fields.pop("taken").items()}
    return Report(taken=taken, **fields)


def of(taken: Taken, steps: int, batch: int) -> Report:
    """Return the report of these epochs on this machine."""
    versions = {name: version(name) for name in _PACKAGES}
    cores = len(os.sched_getaffinity(0))
    return Report(processor(), cores, platform.python_version(), versions, steps, batch, taken)
