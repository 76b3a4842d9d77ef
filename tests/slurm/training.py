"""A training job on the cluster, with its processes and the checks of its end."""

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
    "--training.batch_size=32",
    "--training.epochs=1",
    "--checkpoint.every_steps=10",
)
"""Options for a hundred steps, which take a few seconds: long enough to be disturbed in the middle."""


@dataclass
class Training:
    """A training in its own folder, which `submit` submits."""

    cluster: Cluster
    undisturbed: Callable[[int], str]
    """Returns the hash of the weights with which a world of this size must end."""
    folder: Path
    pair: tuple[str, str]
    """The nodes on which this training may run, and no other."""
    nodes: int = 2
    ranks: int = 1  # on each node
    environment: dict[str, str] = field(default_factory=dict[str, str])
    job: str = ""

    def submit(self, *overrides: str | Path, options: Sequence[str] = ()) -> str:
        """Submit the job and return its id. `options` are those of sbatch."""
        where = (f"--nodes={self.nodes}", f"--nodelist={','.join(self.pair[: self.nodes])}", *options)
        arguments = (RECIPE, *LENGTH, "--output.dir", self.folder, *overrides)
        environment = {"RANKS_PER_NODE": str(self.ranks), **self.environment}
        self.job = self.cluster.submit("slurm/train.sbatch", *arguments, options=where, environment=environment)
        return self.job

    def reach(self, step: int, seconds: float = 400) -> None:
        """Wait until this step is taken."""
        file = self.folder / "metrics.jsonl"
        there = wait_until(lambda: file.exists() and file.read_text().count('"kind": "step"') >= step, seconds)
        assert there, f"step {step} was not reached: {self.cluster.said(self.job)}"

    def send_usr1(self) -> None:
        """Send the batch script the signal with which SLURM says that the time limit is near."""
        self.cluster.run("scancel", "--batch", "--signal=USR1", self.job)

    def launchers(self) -> dict[str, Process]:
        """Return the launchers by node."""
        return {
            process.environment.get("SLURMD_NODENAME", ""): process
            for process in self._processes()
            if LAUNCH in process.words
        }

    def trainers(self) -> dict[str, Process]:
        """Return the ranks by number."""
        return {
            process.environment.get("RANK", "0"): process
            for process in self._processes()
            if LAUNCH not in process.words
        }

    def _processes(self) -> list[Process]:
        """Return the Python processes of this run."""
        return [
            process
            for process in that_name(self.folder)
            if process.program.startswith("python") and "distrib.train" in process.words
        ]

    def summary(self) -> dict[str, Any]:
        return read_json(self.folder / "summary.json")

    def expect_done(self, *, restarts: int | None = None) -> str:
        """Wait for the end, check it, and return the output of the job.

        The job must complete with the weights of an undisturbed run and leave no process and no small file behind.
        """
        state = self.cluster.wait(self.job)
        said = self.cluster.said(self.job)
        assert state == "COMPLETED", f"{state}: {said}"
        assert said.rstrip().endswith("train.sbatch: done"), said
        assert self.summary()["weights_sha256"] == self.undisturbed(self.nodes * self.ranks), said
        if restarts is not None:
            assert self.cluster.show(self.job)["Restarts"] == str(restarts), said
        assert not list(self.cluster.project.glob(f"slurm-{self.job}.[!o]*"))  # the batch script's own small files
        assert not that_name(self.folder)
        return said
