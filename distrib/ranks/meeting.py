"""Lets the processes of a run find each other within a limit, and says meanwhile for whom they wait.

torch's own start waits long for a peer that never comes, and says nothing meanwhile.
"""

import itertools
import time
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from distrib.errors import PeerLost
from distrib.text import print_error

_meetings = itertools.count()
"""The number of the next meeting of this process: a program may train several times."""
_TELL_EVERY = 30.0  # seconds
_LOOK_EVERY = 0.1
_HOST = "the one that holds the store of all ranks (rank 0, or the launcher of its machine)"


def rendezvous(environment: Mapping[str, str], seconds: int) -> None:
    """Form the process group of the ranks that the environment names, which Accelerate takes if it is there.

    Raises PeerLost if not all ranks have come after `seconds`, which is also the time-out of the group's collectives.

    A launcher's second start uses a prefix in the store that nobody has written under: with a static rendezvous the agent's
    store outlives its ranks, and a rank that reads where its peer listens before the peer has said it anew is told where the
    dead one listened. The same goes for a second run of one process.
    """
    rank, world_size = int(environment["RANK"]), int(environment["WORLD_SIZE"])
    hosts = rank == 0 and environment.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    patience = _Patience(environment, seconds)
    store = _open_store(environment, patience) if hosts else _find_store(environment, patience)
    store.set_timeout(timedelta(seconds=seconds))
    prefix = f"start-{environment.get('TORCHELASTIC_RESTART_COUNT', '0')}-{next(_meetings)}"
    own = dist.PrefixStore(prefix, store)  # pyright: ignore[reportPrivateImportUsage]
    try:
        own.set(f"here/{rank}", "yes")
        here = own.add("here", 1)
        while here < world_size:
            patience.spend(lambda: _missing(own, world_size))
            time.sleep(_LOOK_EVERY)
            here = own.add("here", 0)
    except dist.DistError:
        raise patience.end(f"{_HOST} left again") from None
    dist.init_process_group(
        "nccl" if torch.cuda.is_available() else "gloo",
        store=own,
        rank=rank,
        world_size=world_size,
        timeout=timedelta(seconds=seconds),
    )


def _store(environment: Mapping[str, str], patience: "_Patience", *, host: bool) -> Any:
    """Open the store at the address that the environment names, or connect to it. Raises DistError."""
    return dist.TCPStore(  # pyright: ignore[reportPrivateImportUsage]
        environment["MASTER_ADDR"],
        int(environment["MASTER_PORT"]),
        is_master=host,
        wait_for_workers=False,
        timeout=timedelta(seconds=patience.until_told() / 2),  # torch tries twice
    )


def _open_store(environment: Mapping[str, str], patience: "_Patience") -> Any:
    """Open the store on rank 0. Raises PeerLost."""
    try:
        return _store(environment, patience, host=True)
    except dist.DistError as error:
        said = str(error).strip().splitlines()[0]
        raise patience.end(
            f"rank 0 cannot hold the store of all ranks there, because another program has the port, or MASTER_ADDR is not an "
            f"address of rank 0's machine ({said})"
        ) from None


def _find_store(environment: Mapping[str, str], patience: "_Patience") -> Any:
    while True:
        try:
            return _store(environment, patience, host=False)
        except dist.DistError:
            patience.spend(lambda: f"{_HOST} does not answer")


def _missing(store: Any, world_size: int) -> str:
    missing = [str(rank) for rank in range(world_size) if not store.check([f"here/{rank}"])]
    return f"rank {', '.join(missing[:20])}{' and others' if len(missing) > 20 else ''} did not come yet"


class _Patience:
    """How long this rank has waited, and still does. The first rank of each machine tells."""

    def __init__(self, environment: Mapping[str, str], seconds: float) -> None:
        self._where = f"{environment['MASTER_ADDR']}:{environment['MASTER_PORT']}"
        self._tells = environment.get("LOCAL_RANK", "0") == "0"
        self._seconds = seconds
        self._began = self._told = time.monotonic()

    def until_told(self) -> float:
        """Return for how many seconds to wait before there is something to say."""
        now = time.monotonic()
        return max(0.1, min(self._told + _TELL_EVERY, self._began + self._seconds) - now)

    def spend(self, why: Callable[[], str]) -> None:
        """Tell why the start has to wait, every half minute. Raises PeerLost when it has waited for long enough."""
        now = time.monotonic()
        if now >= self._began + self._seconds:
            raise self.end(why())
        if now >= self._told + _TELL_EVERY:
            self._told = now
            if self._tells:
                print_error(f"waiting at {self._where}: {why()} ({now - self._began:.0f} of {self._seconds:.0f} s)")

    def end(self, why: str) -> PeerLost:
        """Return the error that ends the start."""
        return PeerLost(
            f"the ranks did not meet at {self._where}: {why}, after {time.monotonic() - self._began:.0f} s "
            f"(training.start_timeout_seconds = {self._seconds:.0f}); see the output of the ranks and of their launchers, and "
            "whether their machines reach this address and port",
            reported_here=True,
        )
