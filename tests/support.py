"""Helpers of many tests, above all real ranks, started as a launcher would but without its seconds of start-up.

Each rank is a process with its own environment, standard output and signals. All ranks are forked from a server that has
imported torch once.
"""

import atexit
import functools
import json
import multiprocessing
import os
import platform
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
RECIPES = ROOT / "launch" / "recipes"
QUICKSTART = RECIPES / "quickstart.toml"

SMALL = (
    "--data.source=synthetic",
    "--data.train_images=160",
    "--data.test_images=50",
    "--training.batch_size=16",
    "--training.epochs=2",
    "--training.threads=1",
    "--crosscheck.record=false",
)
"""Options for twenty steps in two epochs on one thread, not recorded; this takes a second or two."""

OVERFLOWING = (
    "--precision.mode=fp16",
    "--precision.force=true",
    "--precision.init_scale=1e9",
    "--data.train_images=40",
    "--data.test_images=10",
    "--training.batch_size=4",
)
"""Options behind `SMALL` for as many steps in fp16, of which the first overflow. A CPU emulates fp16, fifteen times slower,
so that batches are small."""

RANKS = multiprocessing.get_context("forkserver")
"""It starts every rank of these tests: a process has one fork server, and its first start fixes what that has imported."""
RANKS.set_forkserver_preload(["distrib.train", "distrib.command", "distrib.page.render", "tests.warm"])


@dataclass(frozen=True, slots=True)
class Result:
    """The exit code of a process, and what it wrote to standard output and standard error."""

    code: int
    out: str
    err: str


@dataclass(slots=True)
class Ranks:
    """The running trainers of one world."""

    processes: list[BaseProcess]
    outputs: Path

    def send(self, rank: int, number: signal.Signals) -> None:
        pid = self.processes[rank].pid
        assert pid is not None
        os.kill(pid, number)

    def wait(self, seconds: float = 400) -> list[Result]:
        """Wait until all ranks have ended and return their results by rank.

        If a rank still runs after `seconds`, all are killed and the test fails.
        """
        deadline = time.monotonic() + seconds
        results: list[Result] = []
        for rank, process in enumerate(self.processes):
            process.join(max(0.0, deadline - time.monotonic()))
            if process.exitcode is None:
                for other in self.processes:
                    other.kill()
                raise AssertionError(f"rank {rank} still runs after {seconds} s: {self.read(rank)}")
            results.append(Result(process.exitcode, *self.read(rank)))
        return results

    def wait_for_output(self, text: str) -> None:
        """Wait until rank 0 has printed the text."""
        wait_for(self.outputs / "0.out", text)

    def read(self, rank: int) -> tuple[str, str]:
        """Return what the rank has written to standard output and to standard error so far."""
        return tuple((self.outputs / f"{rank}.{name}").read_text() for name in ("out", "err"))  # pyright: ignore[reportReturnType]


def start(
    arguments: Sequence[str | Path],
    *,
    world_size: int = 1,
    environment: Mapping[str, str] | None = None,
    file_limit: int = 0,
    plant: Callable[[int], None] | None = None,
) -> Ranks:
    """Start the trainers of one world and return while they run.

    They may write files of at most `file_limit` bytes, or of any size if it is 0. To plant a fault, each rank calls `plant`
    (which must pickle) with its number before it trains.
    """
    outputs = Path(tempfile.mkdtemp(dir=_outputs()))
    world = {"CUDA_VISIBLE_DEVICES": "", **(environment or {})}
    if world_size > 1:
        world |= {
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(free_port()),
            "WORLD_SIZE": str(world_size),
            "LOCAL_WORLD_SIZE": str(world_size),
        }
    processes: list[BaseProcess] = []
    for rank in range(world_size):
        mine = world | ({"RANK": str(rank), "LOCAL_RANK": str(rank)} if world_size > 1 else {})
        job = ([str(argument) for argument in arguments], mine, str(outputs), rank, file_limit, plant)
        process = RANKS.Process(target=_rank, args=job, daemon=True)
        process.start()
        processes.append(process)
    return Ranks(processes, outputs)


@functools.cache
def _outputs() -> Path:
    """Return a folder for what ranks print. It is removed when this process ends."""
    folder = Path(tempfile.mkdtemp(prefix="ranks-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def train(
    arguments: Sequence[str | Path],
    *,
    world_size: int = 1,
    environment: Mapping[str, str] | None = None,
    file_limit: int = 0,
    plant: Callable[[int], None] | None = None,
) -> list[Result]:
    """Run the trainers of one world to their end and return their results by rank."""
    return start(arguments, world_size=world_size, environment=environment, file_limit=file_limit, plant=plant).wait()


def train_well(
    folder: Path,
    *arguments: str | Path,
    recipe: Path = QUICKSTART,
    world_size: int = 1,
    plant: Callable[[int], None] | None = None,
) -> dict[str, Any]:
    """Train in `folder`, expect every rank to exit with 0, and return the summary."""
    results = train([recipe, *arguments, "--output.dir", folder], world_size=world_size, plant=plant)
    assert [result.code for result in results] == [0] * world_size, results
    return read_json(folder / "summary.json")


def steps(folder: Path) -> list[dict[str, Any]]:
    """Return the line of each step in metrics.jsonl."""
    return _lines(folder, "step")


def epochs(folder: Path) -> list[dict[str, Any]]:
    """Return the line of each epoch in metrics.jsonl."""
    return _lines(folder, "epoch")


def _lines(folder: Path, kind: str) -> list[dict[str, Any]]:
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [line for line in lines if line["kind"] == kind]


def losses(folder: Path) -> list[float]:
    """Return the global loss of each step."""
    return [line["loss"] for line in steps(folder)]


def checkpoint_of(folder: Path, step: int) -> Path:
    """Return the path of the run's checkpoint after this step."""
    return folder / "checkpoints" / f"step-{step:08d}"


def tensor_bytes(checkpoint: Path) -> dict[str, bytes]:
    """Return the bytes of the checkpoint's files of weights, optimizer state and average, by file name."""
    return {file.name: file.read_bytes() for file in sorted(checkpoint.glob("*.safetensors"))}


def read_json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def processor() -> str:
    """Return the name of this machine's processor."""
    about = Path("/proc/cpuinfo")
    if about.exists():
        models = [line for line in about.read_text().splitlines() if line.startswith("model name")]
        if models:
            return models[0].partition(":")[2].strip()
    return platform.processor() or platform.machine()


def replace_attribute(owner: Any, name: str, value: object) -> None:
    """Replace an attribute for the rest of this process, such as a forked rank; an unknown name is a mistake of the test."""
    assert hasattr(owner, name), f"{owner} has no {name}"
    setattr(owner, name, value)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until(condition: Callable[[], bool], seconds: float, every: float = 0.05) -> bool:
    """Wait until the condition is true and return True, or return False after so many seconds."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(every)
    return True


def wait_for(path: Path, text: str, seconds: float = 300) -> None:
    """Wait until the file holds the text."""
    there = wait_until(lambda: path.exists() and text in path.read_text(), seconds)
    assert there, f"{path} never held {text!r}"


JAX = ("jax", "jaxlib", "jaxtyping", "ml_dtypes", "optax")
TORCH = ("torch", "torchvision", "accelerate")


def run_without(packages: Sequence[str], script: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a script in a process to which these packages look as if they were not installed."""
    whole = f"{_NOT_INSTALLED.format(packages=tuple(packages))}\n{script}"
    command = [sys.executable, "-c", whole, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)


_NOT_INSTALLED = """
import sys

class NotInstalled:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {packages!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, NotInstalled())
"""


@contextmanager
def largest_file(size: int) -> Generator[None]:
    """Let writes to a file beyond `size` bytes fail, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def _rank(
    arguments: list[str],
    environment: dict[str, str],
    outputs: str,
    rank: int,
    file_limit: int,
    plant: Callable[[int], None] | None,
) -> None:
    """Be a rank: train with these arguments and exit. Runs in the rank's process."""
    os.environ.update(environment)
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(Path(outputs) / f"{rank}.{name}", os.O_CREAT | os.O_WRONLY, 0o644), number)
    from distrib.train import main

    if plant is not None:
        plant(rank)
    with largest_file(file_limit) if file_limit else nullcontext():
        sys.exit(main(arguments))
