"""Finds out which rank is gone: each counts seconds in the process group's store, from a thread.

When a collective fails, every rank sees an error, but the error names an address at best. Ranks that
merely wait for the dead one go on counting, so the ranks whose count stands still are the ones to name.
Not every collective fails: in CUDA the main thread waits on, until NCCL ends the process without a word. So a
second thread looks at all counts, and speaks and leaves when one has stood still for long.
"""

import os
import threading
import time
from collections.abc import Callable, Collection, Mapping
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

import torch.distributed as dist

from distrib.errors import PeerLost

T = TypeVar("T")

_PERIOD = 0.5  # seconds
# Most of gloo's messages begin with a source file of its own; those of closed pairs do not.
_GLOO_WORDS = ("gloo", "pair closure", "Connection closed by peer", "Connection reset by peer", "Timed out waiting")
_GAP = 2.5  # seconds without a count: a rank is dead, once something failed
_SHARE = 0.75  # of the time-out without a count: it is dead though nothing failed, and NCCL has not lost patience yet
_LOOKS = 10  # in that time; each asks for every rank's count


class Heartbeat:
    """Keeps this rank's count going, and watches those of the others."""

    def __init__(self, rank: int, world_size: int, environment: Mapping[str, str] = os.environ) -> None:
        self._rank, self._world_size = rank, world_size
        # A launcher that lost a rank asks the others to stop, and kills them after 30 s, whatever patience it was told to
        # have with those that it stops for another reason (_stop_workers in torch's local_elastic_agent.py).
        self._hurry = min(30.0, float(environment.get("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "30"))) / 3
        self._end = threading.Event()
        self._threads: list[threading.Thread] = []
        self._diagnoses = threading.Lock()  # held for good by the thread that diagnoses: one diagnosis is enough

    def start(self) -> None:
        """Count from now on, unless this is the only rank."""
        if self._world_size > 1:
            _store().add(_key(self._rank), 1)  # in this thread: a peer that has agreed with this one finds it
            self._run(self._count, "heartbeat")

    def watch(self, timeout: float, asked: Callable[[], bool], leave: Callable[[PeerLost], object]) -> None:
        """Report from a thread, from now on, a peer that is silent, less than `timeout` seconds after its last sign.

        `asked` says whether this process was asked to stop. `leave` gets what `diagnose` gives, and ends the process: its
        main thread may wait for ever.
        """
        if self._world_size > 1:
            self._run(lambda: self._watch(max(_GAP, _SHARE * timeout), asked, leave), "watch over peers")

    def stop(self) -> None:
        """End the threads. To be called before the process group and its store go away."""
        self._end.set()
        while self._threads:
            self._threads.pop().join(_GAP)  # it may wait for a store that does not answer

    def diagnose(self, error: RuntimeError) -> PeerLost:
        """Return the fault to report for a failed collective.

        Does not return if the other thread is about to report the fault and to end the process.
        """
        self._diagnoses.acquire()
        return self._fault(self._missing(), str(error))

    def _run(self, work: Callable[[], None], name: str) -> None:
        self._threads.append(threading.Thread(target=work, daemon=True, name=name))
        self._threads[-1].start()

    def _count(self) -> None:
        store = _store()
        try:
            while not self._end.wait(_PERIOD):
                store.add(_key(self._rank), 1)
        except RuntimeError:
            return  # the rank that hosts the store is gone; the next collective says so, or the watch

    def _watch(self, longest: float, asked: Callable[[], bool], leave: Callable[[PeerLost], object]) -> None:
        """Silence is counted in looks, not in seconds: a run that is suspended and resumed as a whole lost nobody."""
        interval, ranks = longest / _LOOKS, range(self._world_size)
        counts, silent, unanswered = [b""] * self._world_size, [0] * self._world_size, 0
        while not self._end.is_set():
            began, previous = time.monotonic(), counts
            try:
                counts = _ask(lambda store: store.multi_get([_key(rank) for rank in ranks]), interval)
            except RuntimeError:
                unanswered += 1
            else:
                unanswered, silent = 0, [silent[r] + 1 if counts[r] == previous[r] else 0 for r in ranks]
            limit = min(longest, self._hurry) if asked() else longest
            if max(unanswered, *silent) * interval >= limit:
                # Those of one node fall silent together, give or take a look.
                lost = [rank for rank in ranks if silent[rank] * interval >= limit / 2]
                if self._diagnoses.acquire(blocking=False) and not self._end.is_set():
                    leave(self._fault([0] if unanswered else lost, f"no sign of life for {limit:.0f} s"))
                return
            self._end.wait(began + interval - time.monotonic())

    def _fault(self, missing: Collection[int], cause: str) -> PeerLost:
        who = "rank " + " and rank ".join(str(rank) for rank in missing) if missing else "a rank"
        cause = cause.strip().splitlines()[0]
        return PeerLost(
            f"{who} stopped answering, so the others gave up; see the output of {who} ({cause})",
            reported_here=self._rank == min(set(range(self._world_size)) - set(missing), default=0),
        )

    def _missing(self) -> list[int]:
        """Return the ranks whose count stands still, as the first rank to look found them.

        It leaves its finding in the store for the others, whose own view is blurred when it exits.
        """
        ranks = [rank for rank in range(self._world_size) if rank != self._rank]

        def look(store: Any) -> str:
            before = {rank: store.add(_key(rank), 0) for rank in ranks}
            time.sleep(_GAP)
            missing = [rank for rank in ranks if store.add(_key(rank), 0) == before[rank]]
            return store.compare_set("heartbeat/missing", "", " ".join(map(str, missing)) or "none").decode()

        try:
            return [int(rank) for rank in _ask(look, 2 * _GAP).split() if rank != "none"]
        except RuntimeError:
            return [0]


def is_collective_failure(error: RuntimeError) -> bool:
    """Return whether a peer, not this process, is to blame. gloo has no exception class of its own."""
    said = str(error)
    return isinstance(error, dist.DistError) or any(words in said for words in _GLOO_WORDS)


def _key(rank: int) -> str:
    return f"heartbeat/{rank}"


def _store() -> Any:
    return dist.distributed_c10d._get_default_store()  # pyright: ignore[reportPrivateUsage]


def _ask(question: Callable[[Any], T], seconds: float) -> T:
    """Return what the store answers. Raises RuntimeError if its host is gone, or silent for `seconds`.

    Without the thread this one would wait for the store without end.
    """
    answers: SimpleQueue[T | RuntimeError] = SimpleQueue()

    def ask() -> None:
        try:
            answers.put(question(_store()))
        except RuntimeError as error:
            answers.put(error)

    threading.Thread(target=ask, daemon=True, name="question to the store").start()
    try:
        answer = answers.get(timeout=seconds)
    except Empty:
        raise RuntimeError(f"no answer from the store that rank 0's machine holds for {seconds:.0f} s") from None
    if isinstance(answer, RuntimeError):
        raise answer
    return answer
