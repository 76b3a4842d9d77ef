"""The promises that hold after every fault. Each check raises Violation if its promise is broken."""

import hashlib
import json
import re
from collections.abc import Collection, Set
from pathlib import Path

from tests.chaos import record
from tests.chaos.plan import EVERY_STEPS
from tests.chaos.world import Process, Violation, Word

_CONTINUES = re.compile(r"continuing from .*step-(\d+)")


def gone(processes: Collection[Process], seconds: float) -> None:
    """Check that no process of the start is left after so many seconds."""
    if processes:
        left = "; ".join(f"{process.pid} on node {process.node}: {process.command[:160]}" for process in processes)
        raise Violation(f"still there after {seconds:.0f} s: {left}")


def ended_as_it_may(word: Word, accepted: Set[str]) -> None:
    """Check that the ending is accepted, and that it asks for another start unless it ends with 2, bad input."""
    if str(word) not in accepted:
        raise Violation(f"ended as {word} ({word.reason}), where {' or '.join(sorted(accepted))} is right")
    if word.retry is (word.exit_code == 2):
        raise Violation(f"{word} with retry {word.retry}: {word.reason}")


def files_are_whole(folder: Path, damaged: Collection[int]) -> None:
    """Check that every file is whole. `damaged` has the inodes of checkpoints that a fault hit; these may be broken."""
    for name in ("status.json", "summary.json"):
        if (folder / name).exists():
            try:
                json.loads((folder / name).read_text(encoding="utf-8"))
            except ValueError as error:
                raise Violation(f"{name} is not JSON ({error})") from None
    if (folder / "metrics.jsonl").exists():
        try:
            numbers = [line["step"] for line in record.steps(folder)]
        except (ValueError, KeyError, TypeError) as error:
            raise Violation(f"a line of metrics.jsonl is not one of a step ({error})") from None
        if numbers != list(range(1, len(numbers) + 1)):
            raise Violation("the steps of metrics.jsonl are not 1, 2, 3, … without a gap or a repetition")
    for saved in record.checkpoints(folder):
        if saved.inode not in damaged:
            _verify(saved.path)


def newest_valid(folder: Path, damaged: Collection[int]) -> int:
    """Return the step of the newest checkpoint that no fault hit, or 0 if there is none."""
    return max((saved.step for saved in record.checkpoints(folder) if saved.inode not in damaged), default=0)


def no_more_lost_than_the_interval(folder: Path, damaged: Collection[int]) -> None:
    """Check, after a start that trained, that the newest checkpoint is at most EVERY_STEPS behind the last step."""
    done, kept = record.last_step(folder), newest_valid(folder, damaged)
    if done - kept > EVERY_STEPS:
        raise Violation(f"step {done} was reached, but the newest checkpoint is of step {kept}")


def nothing_lost(folder: Path, damaged: Collection[int]) -> None:
    """Check, after a start that trained and stopped on request, that the newest checkpoint is of its last step."""
    done, kept = record.last_step(folder), newest_valid(folder, damaged)
    if done != kept:
        raise Violation(f"stopped on request after step {done}, but the newest checkpoint is of step {kept}")


def resumed_from(output: str, expected: int, damaged: Collection[str], *, trained: bool) -> None:
    """Check that a start continued from the newest checkpoint that no fault hit, and said that it skipped newer ones.

    `expected` is the step of that checkpoint. `damaged` has the names of newer checkpoints that a fault hit. A start that has
    not `trained` may have ended before it said from where it continues.
    """
    found = _CONTINUES.search(output)
    step = 0 if found is None else int(found[1])
    if found is None and not trained:
        return
    if step != expected:
        raise Violation(f"continued from step {step}, where the newest valid checkpoint is of step {expected}")
    for name in damaged:
        if not re.search(rf"{re.escape(name)} skipped: ", output):
            raise Violation(f"{name} is damaged, but no line says that it was skipped")


def death_is_named(output: str, dead: Collection[int]) -> None:
    """Check that the survivors named a rank that died."""
    faults = [line for line in output.splitlines() if line.startswith("fault: ")]
    if not any(re.search(rf"\brank {rank}\b", line) for line in faults for rank in dead):
        said = "; ".join(faults) or "nothing"
        raise Violation(f"rank {' or '.join(map(str, sorted(dead)))} died first, but the others say: {said}")


def _verify(path: Path) -> None:
    """Check the hashes of a checkpoint. Raises Violation."""
    try:
        manifest = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
        for name, facts in manifest["files"].items():
            if hashlib.sha256((path / name).read_bytes()).hexdigest() != facts["sha256"]:
                raise Violation(f"{path.name}/{name} does not have the sha256 in the manifest, and no fault hit it")
    except (OSError, ValueError, KeyError) as error:
        raise Violation(f"{path.name} is not whole, and no fault hit it: {error}") from None
