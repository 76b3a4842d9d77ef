"""The faults that can happen to a start, and the endings that are right after each."""

import random
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.chaos import record
from tests.chaos.plan import Fault, Phase
from tests.chaos.world import GRACE_SECONDS, TIMEOUT_SECONDS, Process, Start, Violation
from tests.disk import Disk
from tests.support import wait_until

LIMIT_SECONDS = TIMEOUT_SECONDS + GRACE_SECONDS + 10
"""Within this time no process of a start may be left, whatever fault struck it.

It is the time-out of the other ranks, the grace of the launchers, and ten seconds for two busy cores. Where the batch system
has to end a node, the time starts again."""


_LOST = frozenset({"failed 1", "stopped 75", "no word"})  # the same command may succeed if it is started again
_STOPPED = frozenset({"stopped 75"})
_BAD_INPUT = frozenset({"failed 2"})


@dataclass(frozen=True, slots=True)
class Struck:
    """What a fault has done."""

    start: Start
    """The start whose end is waited for now."""
    victim: str
    """What was hit, for the report."""
    dead: frozenset[int] = frozenset()
    """The ranks that died. The survivors, if there are any, must name at least one of them."""
    hung: Process | None = None
    """A process that hangs, and has to be killed once the others have exited."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of fault."""

    strike: Callable[[Start, Fault, Disk], Struck]
    phases: tuple[Phase, ...]
    """The phases in which it can strike."""
    endings: frozenset[str]
    """The endings that are right if the start had begun to train."""
    early: frozenset[str] = _LOST
    """The endings that are right if it had not."""
    aftermath: Callable[[Path, random.Random], str] | None = None
    """What is done when no process runs any more. It returns what was hit."""


def _rank(start: Start, fault: Fault) -> Process:
    """Return a rank drawn from all, or the one that replays. Waits until it has been started. Raises Violation."""
    rank = 0 if fault.moment.phase == "replay" else fault.random().randrange(start.job.world_size)
    if not wait_until(lambda: start.rank(rank) is not None, LIMIT_SECONDS):
        raise Violation(f"rank {rank} never came up")
    process = start.rank(rank)
    if process is None:
        raise Violation(f"rank {rank} left by itself")
    return process


def _node(start: Start, fault: Fault) -> int:
    """Return a node drawn from all, or the one that replays."""
    return 0 if fault.moment.phase == "replay" else fault.random().randrange(start.job.nodes)


def _to_rank(number: signal.Signals) -> Callable[[Start, Fault, Disk], Struck]:
    def strike(start: Start, fault: Fault, _disk: Disk) -> Struck:
        process = _rank(start, fault)
        process.send(number)
        killed = number == signal.SIGKILL
        dead = frozenset([process.rank]) if killed and process.rank is not None else frozenset[int]()
        return Struck(start, f"rank {process.rank}", dead)

    return strike


def _to_launcher(number: signal.Signals) -> Callable[[Start, Fault, Disk], Struck]:
    def strike(start: Start, fault: Fault, _disk: Disk) -> Struck:
        node = _node(start, fault)
        process = start.launcher(node)
        if process is None:
            raise Violation(f"the launcher of node {node} left by itself")
        process.send(number)
        return Struck(start, f"launcher {node}")

    return strike


def _stop_all(start: Start, _fault: Fault, _disk: Disk) -> Struck:
    for launcher in [process for process in start.processes() if process.launches]:
        launcher.send(signal.SIGTERM)
    return Struck(start, "all launchers")


def _cut_power(start: Start, fault: Fault, _disk: Disk) -> Struck:
    node = _node(start, fault)
    dead = frozenset(p.rank for p in start.processes() if p.node == node and p.rank is not None)
    start.cut_power(node)
    return Struck(start, f"node {node}", dead)


def _hang(start: Start, fault: Fault, _disk: Disk) -> Struck:
    process = _rank(start, fault)
    process.send(signal.SIGSTOP)
    assert process.rank is not None
    return Struck(start, f"rank {process.rank}", frozenset([process.rank]), hung=process)


def _fill_disk(start: Start, _fault: Fault, disk: Disk) -> Struck:
    disk.fill()
    return Struck(start, "disk")


def _start_twice(start: Start, fault: Fault, disk: Disk) -> Struck:
    """Start the job a second time. The start that comes second must be refused, and the other go on; that one is then stopped."""
    second = start.job.start(f"{start.name}b")
    both = (start, second)
    if not wait_until(lambda: any(not one.processes() for one in both), 4 * LIMIT_SECONDS):
        raise Violation("two starts run in the same folder")
    refused, other = both if not start.processes() else (second, start)
    if refused.word().exit_code != 2:
        raise Violation(f"of two starts in the same folder {refused.name} was not refused: {refused.word()}")
    if not wait_until(other.trains, LIMIT_SECONDS):
        raise Violation(f"{other.name} did not go on when {refused.name} was refused")
    return Struck(_stop_all(other, fault, disk).start, f"{refused.name} refused")


def _damage(folder: Path, rng: random.Random) -> str:
    """Damage the newest checkpoint in one of four ways, and return which."""
    newest = record.checkpoints(folder)[0].path
    parts = sorted(newest.glob("*.safetensors"))
    part, way = rng.choice(parts), rng.choice(["truncated", "one bit flipped", "deleted", "manifest deleted"])
    if way == "manifest deleted":
        (newest / "manifest.json").unlink()
        return f"{newest.name}: {way}"
    if way == "deleted":
        part.unlink()
    else:
        data = bytearray(part.read_bytes())
        if way == "truncated":
            del data[rng.randrange(len(data)) :]
        else:
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        part.write_bytes(data)
    return f"{newest.name}/{part.name}: {way}"


_WORK: tuple[Phase, ...] = ("start-up", "training", "checkpoint")
_ANY: tuple[Phase, ...] = (*_WORK, "replay")

KINDS: Mapping[str, Kind] = {
    "rank killed": Kind(_to_rank(signal.SIGKILL), _ANY, _LOST),
    "launcher killed": Kind(_to_launcher(signal.SIGKILL), _ANY, _LOST),
    "node killed": Kind(_cut_power, _ANY, _LOST),
    "SIGTERM to a launcher": Kind(_to_launcher(signal.SIGTERM), _ANY, _STOPPED),
    "SIGTERM to all launchers": Kind(_stop_all, _ANY, _STOPPED),
    "SIGUSR1 to a launcher": Kind(_to_launcher(signal.SIGUSR1), _ANY, _STOPPED),
    "SIGUSR1 to a rank": Kind(_to_rank(signal.SIGUSR1), _ANY, _STOPPED),
    "rank hangs": Kind(_hang, ("training", "checkpoint"), _LOST),
    "checkpoint damaged": Kind(_stop_all, ("training",), _STOPPED, aftermath=_damage),
    "disk full": Kind(_fill_disk, _WORK, _BAD_INPUT, early=_BAD_INPUT),
    "started twice": Kind(_start_twice, ("launch",), _STOPPED, early=_STOPPED),
}
"""Every kind of fault, by its name in the report."""
NEEDS_SMALL_DISK = "disk full"
"""The kind that can strike only where a small disk can be mounted."""
