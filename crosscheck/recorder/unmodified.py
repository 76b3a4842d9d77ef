"""Records the optimizers of a script that does not call the recorder. Names, ranks and loss scaler are searched for."""

import gc
import itertools
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from multiprocessing.util import Finalize
from pathlib import Path
from traceback import walk_stack
from typing import Any, cast
from zlib import crc32

import torch
from torch import Tensor, distributed, nn

from crosscheck.recorder.recorder import Recorder

_NAMED = 8  # ranks that the name of a folder has one by one
# How many optimizers of this process other ranks have as well, in the same order, by the part of the folder's name for those
# ranks.
_replicated = Counter[str]()


def record(optimizer: torch.optim.Optimizer, folder: Path, rule: str) -> Path:
    """Record an optimizer, from the step on that it is about to take, into a new folder in `folder`, which is returned.

    To be called in a hook of the optimizer's step. The record ends with the process. Raises UnsupportedOptimizer.
    """
    warnings.filterwarnings("ignore", message="crosscheck: ")  # the script's stderr is its own; the report says it all
    rank, replicas = _place(optimizer)
    world_size = len(replicas)
    trace = _new_folder(folder) if world_size == 1 else folder / _shared_name(replicas)
    try:
        recorder = Recorder(
            optimizer,
            trace,
            rule=rule,
            named_parameters=_names(optimizer),
            scaler=_scaler(),
            append=world_size > 1,  # a launcher may start its ranks again
            rank=rank,
            world_size=world_size,
        )
    except BaseException:
        with suppress(OSError):
            trace.rmdir()
        raise

    def close() -> None:
        with suppress(OSError):  # a full disk: the record ends with its last part, as that of a killed run
            recorder.close()

    Finalize(None, close, exitpriority=0)  # atexit does not call anything in a process that multiprocessing forked
    return trace


def _place(optimizer: torch.optim.Optimizer) -> tuple[int, list[int]]:
    """Return the ranks on which DDP keeps the optimizer's parameters equal, and this process's position among them.

    Without DDP it is this rank alone. Where groups of ranks train different parts of a model, it is those of the group.
    """
    if not (distributed.is_available() and distributed.is_initialized()):
        return 0, [0]
    here = distributed.get_rank()
    wanted = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    groups: list[set[int]] = []
    for module in _modules():
        if type(module).__name__ == "DistributedDataParallel" and wanted & set(map(id, module.parameters())):
            with suppress(KeyError):  # the group of a module that is not in use any more was destroyed
                groups.append(set(distributed.get_process_group_ranks(cast(Any, module).process_group)))
    replicas = sorted(set[int].intersection(*groups)) if groups else [here]
    return replicas.index(here), replicas


def _shared_name(replicas: list[int]) -> str:
    """Return the name of the folder into which these ranks record the optimizer, the same on each of them."""
    among = ""
    if len(replicas) < distributed.get_world_size():
        among = f"-ranks-{'-'.join(map(str, replicas))}"
        if len(replicas) > _NAMED:
            among = f"-ranks-{replicas[0]}-to-{replicas[-1]}-{crc32(among.encode()):08x}"
    _replicated[among] += 1
    return f"replicated-{_replicated[among]}{among}"


def _new_folder(folder: Path) -> Path:
    """Make a folder that no other process has made."""
    for number in itertools.count(1):
        trace = folder / f"optimizer-{number}"
        with suppress(FileExistsError):
            trace.mkdir()
            return trace
    raise AssertionError


def _names(optimizer: torch.optim.Optimizer) -> list[tuple[str, Tensor]]:
    """Return the names of the optimizer's parameters in the module that holds most of them.

    Of several modules with the same parameters it is the one with the shortest names: the network, not its wrapper.
    Nothing is returned if the optimizer knows names itself.
    """
    if all("param_names" in group for group in optimizer.param_groups):
        return []
    wanted = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    named: list[list[tuple[str, Tensor]]] = [[]]
    for module in _modules():
        with suppress(Exception):  # a module that is half made has no parameters to name yet
            named.append([(name, p) for name, p in module.named_parameters() if id(p) in wanted])
    return max(named, key=lambda each: (len(each), -sum(len(name) for name, _ in each)))


def _modules() -> Iterator[nn.Module]:
    """Yield all modules there are in this process. `type` asks nothing of the other objects, which may be anything."""
    return (thing for thing in gc.get_objects() if issubclass(type(thing), nn.Module))


def _scaler() -> torch.amp.GradScaler | None:
    """Return the loss scaler that is about to have the optimizer step, if there is one: it is on the stack then."""
    for frame, _ in walk_stack(None):
        found = frame.f_locals.get("self")
        if isinstance(found, torch.amp.GradScaler):
            return found
    return None
