"""Writes metrics.jsonl: one JSON object a line, one line a step and one an epoch, also after a resume."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from distrib.errors import BadInput
from distrib.files import Unfit, open_regular, replacing, retry_transient, to_json
from distrib.layout import LARGEST_METRICS, LONGEST_LINE_OF_METRICS

Place = tuple[float, bool]
"""The step of a line, and whether it is the line of the epoch that ended there."""
_NOWHERE: Place = (float("inf"), True)
"""The place of a line that is none, because a kill cut it short."""


class Metrics:
    """Appends to a run's metrics.jsonl, without the lines of steps that a resumed run takes again.

    Those lines stay in metrics.jsonl.old until a checkpoint reaches as far. A start that could not read the newest
    checkpoint takes steps again that a later start, which can, does not.
    """

    def __init__(self, path: Path, resumed_step: int, *, evaluation_pending: bool = False) -> None:
        """`evaluation_pending` says that the epoch that ended with `resumed_step` is still to be evaluated by this start.

        Its line then goes, should an earlier start have written one. Raises BadInput for a file that is none, and OSError.
        """
        self._path, self._old = path, _old(path)
        until = (resumed_step, not evaluation_pending)
        reached, last = _reach(path, until)
        old_reached, old_last = _reach(self._old, until)
        source = path
        if old_reached > reached:
            source, last = self._old, old_last
        elif last > until and last > old_last:
            retry_transient(self._old, lambda: os.replace(path, self._old))
            source, old_last = self._old, last
        self._needed_until = old_last
        retry_transient(path, lambda: _copy(source, path, until))
        self._file = retry_transient(path, lambda: path.open("ab"))
        self.after_checkpoint(resumed_step)

    def write(self, **values: Any) -> None:
        """Append a line, whole and at once. Raises OSError."""
        self._file.write(to_json(values).encode() + b"\n")
        retry_transient(self._path, self._file.flush)  # what could not be written yet waits in the buffer

    def after_checkpoint(self, step: int) -> None:
        """Let the lines go that nobody needs any more: a run continues from `step` now, or from later."""
        if step >= self._needed_until[0]:
            retry_transient(self._old, lambda: self._old.unlink(missing_ok=True))

    def close(self) -> None:
        """Raises OSError."""
        retry_transient(self._path, self._file.close)


def last_place(path: Path) -> Place:
    """Return the place of the last line of the file and of what is kept beside it; one before all lines if there is none.

    Raises BadInput, and OSError.
    """
    return max(_reach(each, _NOWHERE)[1] for each in (path, _old(path)))


def _old(path: Path) -> Path:
    return path.with_name(f"{path.name}.old")


def _copy(source: Path, target: Path, until: Place) -> None:
    """Replace `target` by the lines of `source` that are not behind this place."""
    with replacing(target) as new:
        with new.open("wb") as file:
            for line, place in _lines(source):
                if place <= until:
                    file.write(line.removesuffix(b"\n") + b"\n")
        new.chmod(0o644)


def _reach(path: Path, until: Place) -> tuple[Place, Place]:
    """Return the last place of the file that is not behind `until`, and its last place of all."""
    nothing: Place = (-1, False)
    reached, last = nothing, nothing
    for _, place in _lines(path):
        if place < _NOWHERE:
            last = max(last, place)
        if place <= until:
            reached = max(reached, place)
    return reached, last


def _lines(path: Path) -> Iterator[tuple[bytes, Place]]:
    """Yield each line with its place; none if there is no such file."""
    try:
        with open_regular(path, LARGEST_METRICS) as file:
            while line := file.readline(LONGEST_LINE_OF_METRICS):
                yield line, _place(line)
    except FileNotFoundError:
        return
    except Unfit as error:
        raise BadInput(
            f"{path} is not the metrics of a run ({error}): move it away, or choose another output.dir"
        ) from None


def _place(line: bytes) -> Place:
    try:
        values = json.loads(line.decode("utf-8"))
        return int(values["step"]), values.get("kind") == "epoch"
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        return _NOWHERE
