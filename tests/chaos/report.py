"""Prints a line for each fault, and a table at the end."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from tests.chaos.plan import Fault

HEADING = (
    f"{'fault':>5}  {'start':<10} {'kind':<24} {'when':<15} {'victim':<50} {'step':>6}  {'ended':<11} {'seconds':>7}"
)


@dataclass(frozen=True, slots=True)
class Line:
    """A fault, and how its start ended."""

    fault: Fault
    start: str
    victim: str
    step: int
    """The last step of the start, or 0 if it took none."""
    ending: str
    seconds: float
    """The time from the fault until no process of the start was left."""

    def __str__(self) -> str:
        return (
            f"{self.fault.number:>5}  {self.start:<10} {self.fault.kind:<24} {self.fault.moment!s:<15} "
            f"{self.victim:<50} {self.step or '-':>6}  {self.ending:<11} {self.seconds:>7.1f}"
        )


def table(lines: Sequence[Line]) -> str:
    """Return a table of how often each kind struck, and how long the start then took to end."""
    rows = [f"{'kind':<24} {'faults':>6} {'median s':>9} {'worst s':>8}"]
    for kind in sorted({line.fault.kind for line in lines}):
        seconds = [line.seconds for line in lines if line.fault.kind == kind]
        rows.append(f"{kind:<24} {len(seconds):>6} {median(seconds):>9.1f} {max(seconds):>8.1f}")
    return "\n".join(rows)
