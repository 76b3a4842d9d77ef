"""Takes the runs of a sweep to their end, one after the other or several at a time, each in a process of its own."""

import hashlib
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from distrib.errors import EXIT_BAD_INPUT
from distrib.sweep.lines import OUTPUT_DIR, Line, given_folder, refuse_shared, with_overrides
from distrib.system import cores

_LONGEST_NAME = 60  # characters of the words in a folder's name


@dataclass(frozen=True, slots=True)
class PlannedRun:
    """A run of a sweep."""

    line: Line
    folder: Path
    arguments: tuple[str, ...]
    """Of the trainer."""

    @property
    def command(self) -> list[str]:
        return [sys.executable, "-m", "distrib.train", *self.arguments]


def plan(lines: Sequence[Line], folder: Path, overrides: Sequence[str]) -> list[PlannedRun]:
    """Return the runs of these lines, with overrides that hold for all of them, before their own.

    A run that does not say its folder has one below `folder`, named for the words of its line: the same words find it again,
    wherever in the file they stand by then. Raises BadInput for two runs with one folder.
    """
    runs = [_run(line, folder, overrides) for line in lines]
    refuse_shared({run.line.number: run.folder for run in runs if not run.line.problem})
    return runs


def _run(line: Line, folder: Path, overrides: Sequence[str]) -> PlannedRun:
    words = with_overrides(line, overrides)
    if line.problem:
        return PlannedRun(line, folder / f"line-{line.number:03}", words)
    if (given := given_folder(words)) is not None:
        return PlannedRun(line, given, words)
    own = folder / _name(line.words)
    return PlannedRun(line, own, (*words, OUTPUT_DIR, str(own)))


def _name(words: Sequence[str]) -> str:
    """Return the name of a run: its words as far as a file's name may hold them, and a hash that tells them apart."""
    shown = re.sub(r"[^\w.]+", "-", " ".join([Path(words[0]).stem, *words[1:]]), flags=re.ASCII).strip("-.")
    digest = hashlib.sha256("\0".join(words).encode("utf-8", "surrogateescape")).hexdigest()
    return f"{shown[:_LONGEST_NAME]}-{digest[:8]}"


class Queue:
    """Takes runs to their end, `jobs` at a time, until it is asked to stop."""

    def __init__(self, runs: Sequence[PlannedRun], jobs: int, tell: Callable[[PlannedRun, int | None], None]) -> None:
        """`tell` hears of each run that begins, with None, and that has ended, with its exit code."""
        self._left, self._jobs, self._tell = list(runs), jobs, tell
        self._running: dict[int, subprocess.Popen[bytes]] = {}
        self._lock = threading.Lock()
        self.stopped = False

    def work(self) -> None:
        """Return when no run is left, or all that run have ended after a request to stop."""
        workers = [threading.Thread(target=self._work, args=(number,), daemon=True) for number in range(self._jobs)]
        for worker in workers:
            worker.start()
        for worker in workers:
            while worker.is_alive():
                worker.join(0.2)  # not without end: a signal is heard between two waits

    def stop(self, number: signal.Signals, *, pass_on: bool) -> None:
        """Begin no more runs. `pass_on`: send the signal to those that run; a Ctrl-C the terminal has sent to them."""
        self.stopped = True
        for process in list(self._running.values()):
            if pass_on and process.poll() is None:
                process.send_signal(number)

    def _work(self, worker: int) -> None:
        while True:
            with self._lock:
                if self.stopped or not self._left:
                    return
                run = self._left.pop(0)
            self._tell(run, None)
            self._tell(run, self._to_its_end(run, worker))

    def _to_its_end(self, run: PlannedRun, worker: int) -> int:
        if run.line.problem:
            return EXIT_BAD_INPUT
        with subprocess.Popen(run.command, env=_environment(worker, self._jobs)) as process:
            self._running[worker] = process
            return process.wait()


def _environment(worker: int, jobs: int, environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the environment of a run: with several at a time each has its share of the cores, and a GPU where there are some."""
    if jobs == 1:
        return dict(environment)
    share = {"SLURM_CPUS_PER_TASK": str(max(1, cores() // jobs))}
    gpus = _gpus(environment)
    if gpus:
        share["CUDA_VISIBLE_DEVICES"] = gpus[worker % len(gpus)]
    return {**environment, **share}


def _gpus(environment: Mapping[str, str]) -> list[str]:
    """Return the GPUs that may be used, as CUDA_VISIBLE_DEVICES names them; none where it is unset and there are none."""
    given = environment.get("CUDA_VISIBLE_DEVICES")
    if given is not None:
        return [gpu for gpu in given.split(",") if gpu not in ("", "-1")]
    return [str(number) for number, _ in enumerate(Path("/proc/driver/nvidia/gpus").glob("*"))]
