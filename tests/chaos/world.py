"""One start of a run. Each node is a launcher and its ranks, and all of them are processes of this machine."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from tests import processes
from tests.processes import MARK
from tests.support import ROOT, free_port

TIMEOUT_SECONDS = 10
"""The value of training.timeout_seconds: a rank that does not answer for so long counts as dead."""
GRACE_SECONDS = 15
"""How long a launcher that is told to stop waits for its ranks before it kills them."""


class Violation(AssertionError):
    """A promise of the trainer was broken."""


class Process(processes.Process):
    """A living process of a start."""

    @property
    def node(self) -> int:
        """The number of the node that it belongs to."""
        return int(self.environment[MARK].rsplit(":", 1)[1])

    @property
    def rank(self) -> int | None:
        """The rank, or None for a launcher or the replay."""
        rank = self.environment.get("RANK") if "distrib.train" in self.command else None
        return None if rank is None else int(rank)

    @property
    def command(self) -> str:
        return " ".join(self.words)

    @property
    def launches(self) -> bool:
        """Whether it is a launcher."""
        return "accelerate.commands.launch" in self.command and self.rank is None

    @property
    def replays(self) -> bool:
        """Whether it is the replay of the cross-check."""
        return "crosscheck replay" in self.command


@dataclass(frozen=True, slots=True)
class Word:
    """How a start says that it ended; the default is for one that ended without saying so."""

    state: str = "no word"
    exit_code: int | None = None
    reason: str = ""
    retry: bool = True

    def __str__(self) -> str:
        return self.state if self.exit_code in (None, 0) else f"{self.state} {self.exit_code}"


@dataclass(frozen=True, slots=True)
class Job:
    """What is submitted to a batch system: a command, the nodes it runs on, and where its output goes."""

    folder: Path
    """The run's folder."""
    logs: Path
    options: tuple[str, ...]
    """The recipe and its overrides."""
    nodes: int
    ranks_per_node: int

    @property
    def world_size(self) -> int:
        return self.nodes * self.ranks_per_node

    def start(self, name: str) -> "Start":
        """Start a launcher on each node and return while they start up."""
        self.logs.mkdir(parents=True, exist_ok=True)
        start = Start(self, name)
        size = ("--num_machines", str(self.nodes), "--num_processes", str(self.world_size))
        address = ("--main_process_ip", "127.0.0.1", "--main_process_port", str(free_port()))
        for node in range(self.nodes):
            command = [
                *(sys.executable, "-m", "accelerate.commands.launch", "-q", "--config_file", "launch/multi-node.yaml"),
                *(*size, *address, "--machine_rank", str(node), "-m", "distrib.train", *self.options),
                *("--training.world_size", str(self.world_size), "--output.dir", str(self.folder)),
            ]
            with start.log(node).open("wb") as log:
                # Each launcher has a session of its own, so that Ctrl-C reaches only this program, which then ends the start.
                start.launchers.append(
                    subprocess.Popen(
                        command,
                        cwd=ROOT,
                        env={**os.environ, **start.environment(node)},
                        stdout=log,
                        stderr=subprocess.STDOUT,
                        start_new_session=True,
                    )
                )
        return start


class Start:
    """One start. Its processes are found by a mark in their environment, since each rank is in a session of its own."""

    def __init__(self, job: Job, name: str) -> None:
        self.job, self.name = job, name
        self.launchers: list[subprocess.Popen[bytes]] = []
        self.since = time.monotonic()
        self._status = job.logs / f"{name}.status.json"
        self._metrics = _inode(job.folder / "metrics.jsonl")
        self._leftovers = self._building()

    def log(self, node: int) -> Path:
        return self.job.logs / f"{self.name}.node{node}.log"

    def environment(self, node: int) -> dict[str, str]:
        return {
            MARK: f"{self.job.logs}:{self.name}:{node}",  # the folder of the logs, the start, the node
            "TWINSTEP_STATUS": str(self._status),
            "CUDA_VISIBLE_DEVICES": "",
            "OMP_NUM_THREADS": "1",
            # Unless the launcher is told to pass SIGUSR1 on, it dies of it and leaves its ranks behind.
            "PET_SIGNALS_TO_HANDLE": "SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1",
            "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": str(GRACE_SECONDS),
        }

    def processes(self) -> list[Process]:
        """Return its living processes: launchers, ranks, and whatever they started."""
        for launcher in self.launchers:
            launcher.poll()  # reaps it if it has ended
        found = processes.marked(f"{self.job.logs}:{self.name}:")
        return [Process(process.pid, process.words, process.environment) for process in found]

    def rank(self, rank: int) -> Process | None:
        """Return the process of the rank, if it is alive."""
        return next((process for process in self.processes() if process.rank == rank), None)

    def launcher(self, node: int) -> Process | None:
        """Return the launcher of the node, if it is alive."""
        return next((process for process in self.processes() if process.launches and process.node == node), None)

    def cut_power(self, node: int) -> None:
        """Kill every process of the node, including those that are being started meanwhile."""
        while lost := [process for process in self.processes() if process.node == node]:
            for process in lost:
                process.send(signal.SIGKILL)
            time.sleep(0.01)

    def output(self) -> str:
        """Return what all launchers and ranks wrote."""
        return "\n".join(self.log(node).read_text(errors="replace") for node in range(self.job.nodes))

    def word(self) -> Word:
        """Return how the start says that it ended."""
        try:
            status = json.loads(self._status.read_text())
        except FileNotFoundError:
            return Word()
        if status["state"] == "running":
            return Word()
        return Word(status["state"], status["exit_code"], status["reason"], status["retry"])

    def trains(self) -> bool:
        """Whether the start has begun to train, which is when it replaces metrics.jsonl."""
        return _inode(self.job.folder / "metrics.jsonl") != self._metrics

    def saves(self) -> bool:
        """Whether a checkpoint is being written."""
        return bool(self._building() - self._leftovers)

    def _building(self) -> set[str]:
        """Return the names of the checkpoints that are not complete."""
        try:
            return {entry.name for entry in os.scandir(self.job.folder / "checkpoints") if entry.name.startswith(".")}
        except FileNotFoundError:
            return set()


def _inode(path: Path) -> int | None:
    try:
        return path.stat().st_ino
    except FileNotFoundError:
        return None
