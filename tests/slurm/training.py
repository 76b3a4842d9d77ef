"""A training job of two nodes on the cluster, its processes, and what its end must look like."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.processes import Process, that_name
from tests.slurm.cluster import Cluster
from tests.support import SMALL, read_json, wait_until

LAUNCH = "accelerate.commands.launch"
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

    def launchers(self) -> dict[str, Process]:
        """By node."""
        return {
            process.environment.get("SLURMD_NODENAME", ""): process
            for process in self._processes()
            if LAUNCH in process.words
        }

    def trainers(self) -> dict[str, Process]:
        """The ranks, by number."""
        return {
            process.environment.get("RANK", "0"): process
            for process in self._processes()
            if LAUNCH not in process.words
        }

    def _processes(self) -> list[Process]:
        """Python's of this run."""
        return [
            process
            for process in that_name(self.folder)
            if process.program.startswith("python") and "distrib.train" in process.words
        ]

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
        assert not that_name(self.folder)
        return said
