"""`train` and `load_run`, for scripts and notebooks: `from distrib import train, load_run`."""

import os
import threading
from collections.abc import Generator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from accelerate import state

from distrib.config.load import Resolved
from distrib.errors import EXIT_INSISTED, BadInput
from distrib.inference.saved_run import SavedRun
from distrib.job import environment
from distrib.job.status import Status
from distrib.job.stop import StopRequest
from distrib.start import begin
from distrib.training.recipe import RunConfig

_NO_SIGNALS = (
    "note: training in a thread that is not the main one, where no signal is heard: Ctrl-C and a batch system's warning do "
    "what they did before, and nothing is saved for them but the checkpoints that are due"
)

_OURS = ("ACCELERATE_", "CUBLAS_", "KMP_", "MASTER_", "OMP_")
"""How the names of the environment's variables begin that a start sets."""


def train(config: RunConfig) -> SavedRun:
    """Train the run that `config` describes, in this process, and return it as `load_run` does.

    It does the same as `python -m distrib.train`, with the same bytes as the result: if the folder holds part of the run, it
    continues there, and if the run is recorded, it replays the trace. If several processes call this at once, started by
    `accelerate launch` or by Accelerate's `notebook_launcher`, they are the ranks of one run; rank 0 alone waits for the verdict.

    In a thread other than the main one signals are not heard. A rank that waits for a dead one ends its process. Afterwards
    signal handlers, threads, torch's settings and its random numbers, and the environment are as they were before.

    Raises:
        BadInput: A key, a file or a folder cannot be used; the message says how to mend that.
        RunFault: The run failed, for example by a loss that is not finite or a mismatch of the cross-check.
        Stopped: Ctrl-C or a signal asked the run to stop, and a checkpoint is written; the same call continues.
        OSError: A disk failed.
        KeyboardInterrupt: Ctrl-C was pressed a second time.
    """
    _refuse_other_training()
    in_main_thread = threading.current_thread() is threading.main_thread()
    resolved = Resolved(config, _origins(config), [] if in_main_thread else [_NO_SIGNALS])
    status = Status()
    with _left_as_found(), StopRequest(None) as request:
        environment.check()
        status.check()
        start = begin(resolved, status, request, name="run", arguments=None)
        try:
            outcome = start.run()
        except KeyboardInterrupt:
            if status.reports:
                status.write(EXIT_INSISTED, "left at once")
            raise
    if outcome.error is not None:
        raise outcome.error
    assert status.folder is not None  # every end without it is an error
    return SavedRun(status.folder)


def load_run(path: str | Path) -> SavedRun:
    """Return the run in a folder: its configuration, summary, curves and network.

    Raises BadInput if it is not the folder of a run.
    """
    return SavedRun(Path(path))


def _origins(config: RunConfig) -> dict[str, str]:
    """Return for each key that the program set that it did, as a recipe's values say where they are from."""
    return {
        f"{section}.{name}": "the configuration given to train"
        for section in RunConfig.model_fields
        for name in getattr(config, section).model_fields_set
    }


def _refuse_other_training() -> None:
    """Raise BadInput if this process trains something else already: its Accelerator would be changed under its hands."""
    if state.is_initialized() or dist.is_initialized():
        raise BadInput(
            "this process has an Accelerator or a process group already, and a run makes its own: call train before you make "
            "one, or in another process"
        )


@contextmanager
def _left_as_found() -> Generator[None]:
    """Put back on leaving what a run sets for the whole process, but for where freed memory goes on a CPU (`system.py`)."""
    tf32 = torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark
    states: Any = state  # Accelerate's own way to start anew has names with underscores
    shared = bool(states.PartialState._shared_state)
    with ExitStack() as later, torch.random.fork_rng(range(torch.cuda.device_count())):
        later.callback(torch.set_num_threads, torch.get_num_threads())
        later.callback(
            torch.use_deterministic_algorithms,
            torch.are_deterministic_algorithms_enabled(),
            warn_only=torch.is_deterministic_algorithms_warn_only_enabled(),
        )
        later.callback(torch.set_float32_matmul_precision, torch.get_float32_matmul_precision())
        later.callback(_put_back, dict(os.environ))
        try:
            yield
        finally:
            torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark = tf32
            if dist.is_initialized():  # Accelerate keeps the group of ranks that were forked
                dist.destroy_process_group()
            # Accelerate keeps one state for a process; the next run, or the program itself, makes another.
            states.AcceleratorState._reset_state(reset_partial_state=not shared)
            states.GradientState._reset_state()


def _put_back(environment: Mapping[str, str]) -> None:
    """Give the variables that libraries read the values that they had."""
    for name in [name for name in os.environ if name.startswith(_OURS) and name not in environment]:
        del os.environ[name]
    os.environ.update({name: value for name, value in environment.items() if name.startswith(_OURS)})
