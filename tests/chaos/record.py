"""What a run's folder holds, read without the trainer's own reader."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_NAME = re.compile(r"step-(\d+)(\.old)?")


@dataclass(frozen=True, slots=True)
class Saved:
    """A checkpoint folder under a name that only a complete one has."""

    step: int
    inode: int
    """Tells a checkpoint from another one of the same step, under whatever name."""
    path: Path


def checkpoints(folder: Path) -> list[Saved]:
    """Newest first."""
    found: list[Saved] = []
    for path in (folder / "checkpoints").glob("step-*"):
        named = _NAME.fullmatch(path.name)
        if named is not None:
            found.append(Saved(int(named[1]), path.stat().st_ino, path))
    return sorted(found, key=lambda saved: (saved.step, saved.path.suffix != ".old"), reverse=True)


def last_step(folder: Path) -> int:
    """Of metrics.jsonl, whose last line may still be being written; 0 if there is none."""
    try:
        with (folder / "metrics.jsonl").open("rb") as file:
            file.seek(max(0, file.seek(0, 2) - 4096))
            lines = file.read().splitlines(keepends=True)
    except FileNotFoundError:
        return 0
    complete = [line for line in lines if line.endswith(b"\n")]
    return int(json.loads(complete[-1])["step"]) if complete else 0


def steps(folder: Path) -> list[dict[str, Any]]:
    """What metrics.jsonl says of each step; a last line that was cut short says nothing. Raises ValueError."""
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").split("\n")
    whole = [json.loads(line) for line in lines[:-1]]
    return [line for line in whole if line["kind"] == "step"]
