"""status.json: what became of a start, for programs, because exit codes do not survive a launcher."""

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path

from distrib.errors import EXIT_DONE, EXIT_STOPPED
from distrib.files import read_json, write_json

PATH = "TWINSTEP_STATUS"
"""Environment: where the status of this one start is written as well, even if its folder is unknown or another's."""


class Status:
    """Written by rank 0, or by the first survivor when rank 0 is gone."""

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        also = environment.get(PATH)
        self._also = None if not also else Path(also)
        self.speaks = environment.get("RANK", "0") == "0"
        self.folder: Path | None = None
        """The run's folder, once this start holds it."""

    def begin(self, folder: Path) -> None:
        """The folder is held, and the run begins. Raises OSError."""
        if self._also is not None:
            self._also.unlink(missing_ok=True)  # of an earlier start of this launcher
        write_json(folder / "status.json", _entry(None, "", None, retry=False))

    def is_written(self) -> bool:
        """Whether a rank has written how this start ends."""
        return any(path is not None and _exit_code(path) is not None for path in self._paths())

    def write(self, code: int, reason: str = "", step: int | None = None, *, retry: bool = False) -> None:
        """How the start ends. `retry`: the same command may well succeed."""
        for path in self._paths():
            if path is not None:
                with contextlib.suppress(OSError):  # a full disk must not hide the message that says so
                    write_json(path, _entry(code, reason, step, retry=retry))

    def _paths(self) -> tuple[Path | None, Path | None]:
        return self.folder and self.folder / "status.json", self._also


def _exit_code(path: Path) -> int | None:
    try:
        return read_json(path)["exit_code"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _entry(code: int | None, reason: str, step: int | None, *, retry: bool) -> dict[str, object]:
    state = {None: "running", EXIT_DONE: "done", EXIT_STOPPED: "stopped"}.get(code, "failed")
    return {"state": state, "exit_code": code, "reason": reason, "step": step, "retry": retry}
