"""metrics.jsonl: one JSON object a line, one line a step and one an epoch, also after a resume."""

import json
from pathlib import Path
from typing import Any, TextIO

from distrib.files import write_atomically


class Metrics:
    """Appends to a run's metrics.jsonl, without the lines of steps that a resumed run takes again."""

    def __init__(self, path: Path, resumed_step: int, *, evaluation_pending: bool = False) -> None:
        """`evaluation_pending` says that the epoch that ended with `resumed_step` is still to be evaluated by this start.

        Its line then goes, should an earlier start have written one.
        """
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
        kept = [line for line in lines if _place(line) <= (resumed_step, not evaluation_pending)]
        write_atomically(path, "".join(line + "\n" for line in kept))
        self._file: TextIO = path.open("a", encoding="utf-8", buffering=1)  # whole lines, at once

    def write(self, **values: Any) -> None:
        self._file.write(json.dumps(values) + "\n")

    def close(self) -> None:
        self._file.close()


def _place(line: str) -> tuple[float, bool]:
    """Return the line's step, and whether it is the line of the epoch that ended there.

    A line that a kill cut short is placed beyond all others.
    """
    try:
        values = json.loads(line)
        return int(values["step"]), values.get("kind") == "epoch"
    except (ValueError, KeyError, TypeError, AttributeError):
        return float("inf"), True
