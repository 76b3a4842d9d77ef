"""metrics.jsonl: one JSON object a line, one line a step and one an epoch, also after a resume."""

import json
from pathlib import Path
from typing import Any, TextIO

from distrib.files import write_atomically


class Metrics:
    """Appends to a run's metrics.jsonl, without the lines of steps that a resumed run takes again."""

    def __init__(self, path: Path, resumed_step: int, *, owes_evaluation: bool = False) -> None:
        """`owes_evaluation`: the epoch that ended with that step is evaluated now, whatever an earlier start wrote of it."""
        kept = [line for line in _lines(path) if _place(line) <= (resumed_step, not owes_evaluation)]
        write_atomically(path, "".join(line + "\n" for line in kept))
        self._file: TextIO = path.open("a", encoding="utf-8", buffering=1)  # whole lines, at once

    def write(self, **values: Any) -> None:
        self._file.write(json.dumps(values) + "\n")

    def close(self) -> None:
        self._file.close()


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return []


def _place(line: str) -> tuple[float, bool]:
    """The line's step, and whether it is of the epoch that ended there; beyond all for a line that a kill cut short."""
    try:
        values = json.loads(line)
        return int(values["step"]), values.get("kind") == "epoch"
    except (ValueError, KeyError, TypeError, AttributeError):
        return float("inf"), True
