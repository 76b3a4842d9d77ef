"""A rank that falls silent is found after so many looks, however long each look takes."""

import threading
from typing import Any

import pytest

from distrib.errors import PeerLost
from distrib.ranks import heartbeat
from distrib.ranks.heartbeat import Heartbeat

LOOKS = 10


class Store:
    """The counts of three ranks: they go on until a rank has been asked for `until` times, and then its count stands still."""

    def __init__(self, silent: int, until: int) -> None:
        self.looks, self._silent, self._until = 0, silent, until

    def multi_get(self, keys: list[str]) -> list[bytes]:
        self.looks += 1
        counts = [min(self.looks, self._until) if rank == self._silent else self.looks for rank in range(len(keys))]
        return [str(count).encode() for count in counts]


def watch(monkeypatch: pytest.MonkeyPatch, store: Any, *, asked: bool = False) -> tuple[PeerLost, int]:
    """Watch over three ranks from rank 0 with a time-out of 4 s. Return the fault, and after how many looks it was found."""
    monkeypatch.setattr(heartbeat, "_store", lambda: store)
    found: list[PeerLost] = []
    ended = threading.Event()

    def leave(fault: PeerLost) -> None:
        found.append(fault)
        ended.set()

    Heartbeat(0, 3, {"TORCH_ELASTIC_SHUTDOWN_TIMEOUT": "3"}).watch(4, lambda: asked, leave)
    assert ended.wait(120)
    return found[0], store.looks


@pytest.mark.parametrize("until", [1, 3])
def test_silence_is_counted_in_looks(monkeypatch: pytest.MonkeyPatch, until: int) -> None:
    fault, looks = watch(monkeypatch, Store(2, until))
    assert str(fault).startswith("rank 2 stopped answering")
    assert "no sign of life for 3 s" in str(fault)
    assert looks == until + LOOKS


def test_after_a_request_to_stop_it_hurries(monkeypatch: pytest.MonkeyPatch) -> None:
    """The launcher kills all ranks soon, and waits 3 s here: a third of that is left."""
    fault, looks = watch(monkeypatch, Store(1, 1), asked=True)
    assert "no sign of life for 1 s" in str(fault)
    assert looks == 1 + 4  # looks of 0.3 s
