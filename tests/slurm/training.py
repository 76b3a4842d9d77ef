"""A training job of two nodes on the cluster, its processes, and what its end must look like."""

import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.slurm.cluster import Cluster
from tests.support import SMALL, read_json, wait_until

RECIPE = "launch/recipes/quickstart.toml"
LENGTH = (
    *SMALL,
    "--data.train_images=3200",
    "--training.epochs=1",
    "--checkpoint.every_steps=10",
)
"""A hundred steps in a few seconds: long enough to be hit in their middle."""


@dataclass
class Training:
    """Submitted by `submit`; in a folder of its own."""

    cluster: Cluster
    undisturbed: Callable[[int], str]
    """The final weights that a world of this size must end with."""
    folder: Path
    pair: tuple[str, str]
    """The nodes it may run on, nobody else's."""
    nodes: int = 2
    ranks: int = 1  # on each node
    environment: dict[str, str] = field(default_factory=dict[str, str])
    job: str = ""

    def submit(self, *overrides: str | Path, options: Sequence[str] = ()) -> str:
        where = (f"--nodes={self.nodes}", f"--nodelist={','.join(self.pair[: self.nodes])}", *options)
        arguments = (RECIPE, *LENGTH, "--output.dir", self.folder, *overrides)
        environment = {"RANKS_PER_NODE": str(self.ranks), **self.environment}
        self.job = self.cluster.submit("slurm/train.sbatch", *arguments, options=where, environment=environment)
        return self.job

    def reach(self, step: int, seconds: float = 120) -> None:
        """Wait until this step is taken."""
        file = self.folder / "metrics.jsonl"
        there = wait_until(lambda: file.exists() and file.read_text().count('"kind": "step"') >= step, seconds)
        assert there, f"step {step} was not reached: {self.cluster.said(self.job)}"

    def launchers(self) -> dict[str, int]:
        """Process ids of the launchers by node."""
        return {node: pid for pid, node, words in self._processes() if "accelerate.commands.launch" in words}

    def trainers(self) -> dict[str, int]:
        """Process ids of the ranks by number."""
        found: dict[str, int] = {}
        for pid, _, words in self._processes():
            if "accelerate.commands.launch" not in words:
                found[variable(pid, "RANK") or "0"] = pid
        return found

    def kill(self, pid: int, number: signal.Signals = signal.SIGKILL) -> None:
        os.kill(pid, number)

    def _processes(self) -> list[tuple[int, str, list[str]]]:
        """Python's of this run: process id, node, words of the command."""
        found: list[tuple[int, str, list[str]]] = []
        for pid in processes_that_name(self.folder):
            words = _read(f"/proc/{pid}/cmdline").split("\0")
            if _program(pid).startswith("python") and "distrib.train" in words:
                found.append((pid, variable(pid, "SLURMD_NODENAME"), words))
        return found

    def summary(self) -> dict[str, Any]:
        return read_json(self.folder / "summary.json")

    def expect_done(self, *, restarts: int | None = None) -> str:
        """It completed, with the undisturbed weights, and left nothing behind. What it said."""
        state = self.cluster.wait(self.job)
        said = self.cluster.said(self.job)
        assert state == "COMPLETED", f"{state}: {said}"
        assert said.rstrip().endswith("train.sbatch: done"), said
        assert self.summary()["weights_sha256"] == self.undisturbed(self.nodes * self.ranks), said
        if restarts is not None:
            assert self.cluster.show(self.job)["Restarts"] == str(restarts), said
        assert not list(self.cluster.project.glob(f"slurm-{self.job}.[!o]*"))  # its own small files
        assert not processes_that_name(self.folder)
        return said


def processes_that_name(folder: Path) -> list[int]:
    """Whoever has the folder on its command line, on any node."""
    name = str(folder)
    return [int(path.parent.name) for path in Path("/proc").glob("[0-9]*/cmdline") if name in _read(path).split("\0")]


def _program(pid: int) -> str:
    """The name it was started by."""
    return Path(_read(f"/proc/{pid}/cmdline").partition("\0")[0]).name


def expect_process(program: str, folder: Path, seconds: float = 60) -> None:
    """Wait until a process of this program has the folder on its command line."""

    def there() -> bool:
        return any(_program(pid).startswith(program) for pid in processes_that_name(folder))

    assert wait_until(there, seconds, every=0.02), f"no {program} names {folder}"


def variable(pid: int, name: str) -> str:
    """A value of a process's environment."""
    for entry in _read(f"/proc/{pid}/environ").split("\0"):
        if entry.startswith(f"{name}="):
            return entry.partition("=")[2]
    return ""


def _read(path: str | Path) -> str:
    """A file of /proc, empty when its process has gone meanwhile."""
    try:
        return Path(path).read_text(errors="replace")
    except OSError:
        return ""
