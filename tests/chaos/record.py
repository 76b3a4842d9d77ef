"""Reads a run's folder without the trainer's own reader."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_NAME = re.compile(r"step-(\d+)(\.old)?")


@dataclass(frozen=True, slots=True)
class Saved:
    """A checkpoint folder with a name that only complete checkpoints have."""

    step: int
    inode: int
    """Identifies the checkpoint, among others of the same step and after a change of its name."""
    path: Path


def checkpoints(folder: Path) -> list[Saved]:
    """Return the checkpoints of a run, the newest first."""
    found: list[Saved] = []
    for path in (folder / "checkpoints").glob("step-*"):
        named = _NAME.fullmatch(path.name)
        if named is not None:
            found.append(Saved(int(named[1]), path.stat().st_ino, path))
    return sorted(found, key=lambda saved: (saved.step, saved.path.suffix != ".old"), reverse=True)


def last_step(folder: Path) -> int:
    """Return the last step in metrics.jsonl, or 0 if there is none. A last line that is not complete yet does not count."""
    try:
        with (folder / "metrics.jsonl").open("rb") as file:
            file.seek(max(0, file.seek(0, 2) - 4096))
            lines = file.read().splitlines(keepends=True)
    except FileNotFoundError:
        return 0
    complete = [line for line in lines if line.endswith(b"\n")]
    return int(json.loads(complete[-1])["step"]) if complete else 0


def steps(folder: Path) -> list[dict[str, Any]]:
    """Return the line of each step in metrics.jsonl, except a last line that was cut short. Raises ValueError."""
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").split("\n")
    whole = [json.loads(line) for line in lines[:-1]]
    return [line for line in whole if line["kind"] == "step"]
