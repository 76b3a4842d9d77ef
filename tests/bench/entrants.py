"""The loops that take part, and the processes that they run in."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from tests.support import ROOT, free_port


@dataclass(frozen=True, slots=True)
class Entrant:
    """One way to train the job."""

    name: str
    loop: tuple[str, ...]
    """The module under tests/bench/loops and its arguments."""
    channels_last: bool = True
    processes: int = 1


TWINSTEP, RECORDED, BARE, TWO_RANKS = "Twinstep", "Twinstep, recorded", "the bare step", "Twinstep, two ranks"
ACCELERATE = "Accelerate's example, no worker"
LAYOUTS = {False: "", True: ", channels_last"}

ENTRANTS = (
    Entrant(TWINSTEP, ("twinstep",)),
    Entrant(RECORDED, ("twinstep", "recorded")),
    Entrant(TWO_RANKS, ("twinstep",), processes=2),
    Entrant(BARE, ("bare",)),
    Entrant("all images in one tensor, as airbench", ("resident",)),
    *(
        Entrant(f"{name}{words}", loop, channels_last)
        for name, loop in (
            ("timm's loader, two workers", ("timm_loader", "2")),
            (ACCELERATE, ("accelerate_example", "0")),
            ("Accelerate's example, two workers", ("accelerate_example", "2")),
            ("Lightning's Trainer, no worker", ("lightning_trainer", "0")),
            ("Lightning's Trainer, two workers", ("lightning_trainer", "2")),
        )
        for channels_last, words in LAYOUTS.items()
    ),
    Entrant("JAX and Optax under jit", ("optax_jit",)),
)


@dataclass(frozen=True, slots=True)
class Epoch:
    """What an epoch took, in seconds: on the clock, and of all processors, without those of a data loader's workers."""

    wall: float
    cpu: float


class Running:
    """An entrant whose processes wait for the signal of their next epoch. Leaving the context ends them."""

    def __init__(self, entrant: Entrant, steps: int, log: Path) -> None:
        """Start the processes. They write what they have to say to `log`."""
        self.entrant, self._log = entrant, log
        world = _world(entrant.processes)
        self._processes = [self._start(steps, world, rank) for rank in range(entrant.processes)]

    def _start(self, steps: int, world: Mapping[str, str], rank: int) -> subprocess.Popen[str]:
        environment = os.environ | world | {"TWINSTEP_BENCH_STEPS": str(steps)}
        environment["TWINSTEP_BENCH_CHANNELS_LAST"] = str(int(self.entrant.channels_last))
        if world:
            environment |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
        module, *arguments = self.entrant.loop
        command = [sys.executable, "-W", "ignore", "-m", f"tests.bench.loops.{module}", *arguments]
        with self._log.open("a") as log:
            return subprocess.Popen(
                command, env=environment, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True
            )

    def __enter__(self) -> "Running":
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.kill()
            process.communicate()

    def epoch(self) -> Epoch:
        """Let it train for an epoch. Raises RuntimeError with its last words if it ends instead."""
        for process in self._processes:
            print("go", file=_pipe(process.stdin), flush=True)
        taken = [self._taken(process) for process in self._processes]
        return Epoch(max(epoch.wall for epoch in taken), sum(epoch.cpu for epoch in taken))

    def _taken(self, process: subprocess.Popen[str]) -> Epoch:
        for line in _pipe(process.stdout):
            if line.startswith("{"):  # some libraries print greetings
                return Epoch(**json.loads(line))
        last = self._log.read_text().strip()[-1000:]
        raise RuntimeError(f"{self.entrant.name} ended with {process.wait()}: {last}")


def _world(processes: int) -> dict[str, str]:
    """Return what ranks of one world have in common; empty for a single process."""
    if processes == 1:
        return {}
    count = str(processes)
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    return {"WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "ACCELERATE_USE_CPU": "true", **address}


def _pipe(pipe: IO[str] | None) -> IO[str]:
    assert pipe is not None  # all were asked for
    return pipe
