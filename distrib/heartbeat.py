"""Who is gone: each rank counts seconds in the process group's store, from a thread.

When a collective fails, every rank sees an error, but the error names an address at best. Ranks that
merely wait for the dead one go on counting, so the ranks whose count stands still are the ones to name.
"""

import threading
import time
from typing import Any

import torch.distributed as dist

from distrib.errors import RunFault

_PERIOD = 0.5  # seconds
# Most of gloo's messages begin with a source file of its own; those of closed pairs do not.
_GLOO_WORDS = ("gloo", "pair closure", "Connection closed by peer", "Connection reset by peer", "Timed out waiting")
_PATIENCE = 2.5  # seconds without a count before a rank is taken for dead


class Heartbeat:
    def __init__(self, rank: int, world_size: int) -> None:
        self._rank, self._world_size = rank, world_size
        self._end = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Count from now on; a world of one has nobody to tell."""
        if self._world_size > 1:
            self._thread = threading.Thread(target=self._count, daemon=True, name="heartbeat")
            self._thread.start()

    def stop(self) -> None:
        """Before the process group and its store go away."""
        self._end.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def explain(self, error: RuntimeError) -> tuple[RunFault, bool]:
        """What to report for a failed collective, and whether this rank is the one to report it."""
        missing = self._missing()
        who = "rank " + " and rank ".join(str(rank) for rank in missing) if missing else "a rank"
        cause = str(error).strip().splitlines()[0]
        fault = RunFault(f"{who} stopped answering, so the others gave up; its own output says why ({cause})")
        return fault, self._rank == min(set(range(self._world_size)) - set(missing), default=0)

    def _count(self) -> None:
        store = _store()
        try:
            while not self._end.wait(_PERIOD):
                store.add(_key(self._rank), 1)
        except RuntimeError:
            return  # the rank that hosts the store is gone; the next collective says so

    def _missing(self) -> list[int]:
        """The first rank to look leaves its finding for the others, whose view is blurred by its exit."""
        ranks = [rank for rank in range(self._world_size) if rank != self._rank]
        try:
            store = _store()
            before = {rank: store.add(_key(rank), 0) for rank in ranks}
            time.sleep(_PATIENCE)
            missing = [rank for rank in ranks if store.add(_key(rank), 0) == before[rank]]
            agreed = store.compare_set("heartbeat/missing", "", " ".join(map(str, missing)) or "none")
            return [int(rank) for rank in agreed.decode().split() if rank != "none"]
        except RuntimeError:
            return [0]


def is_collective_failure(error: RuntimeError) -> bool:
    """Whether a peer, not this process, is to blame. gloo has no exception class of its own."""
    said = str(error)
    return isinstance(error, dist.DistError) or any(words in said for words in _GLOO_WORDS)


def _key(rank: int) -> str:
    return f"heartbeat/{rank}"


def _store() -> Any:
    return dist.distributed_c10d._get_default_store()  # pyright: ignore[reportPrivateUsage]
