"""metrics.jsonl: one JSON object a line, one line a step and one an epoch, also after a resume."""

import json
from pathlib import Path
from typing import Any, TextIO

from distrib.files import write_atomically


class Metrics:
    """Appends to a run's metrics.jsonl, without the lines of steps that a resumed run takes again."""

    def __init__(self, path: Path, resumed_step: int) -> None:
        kept = [line for line in _lines(path) if _step(line) <= resumed_step]
        write_atomically(path, "".join(line + "\n" for line in kept))
        self._file: TextIO = path.open("a", encoding="utf-8", buffering=1)  # whole lines, at once

    def write(self, **values: Any) -> None:
        self._file.write(json.dumps(values) + "\n")

    def close(self) -> None:
        self._file.close()


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []


def _step(line: str) -> float:
    """The line's step; infinity for a line that a kill cut short."""
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")
