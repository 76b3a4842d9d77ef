"""Writes and reads status.json, which tells programs what became of a start, because exit codes do not survive a launcher."""

import contextlib
import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from distrib.errors import EXIT_BAD_INPUT, EXIT_DONE, EXIT_FAULT, EXIT_STOPPED, BadInput
from distrib.files import read_json, refuse_special, write_json
from distrib.layout import STATUS

PATH = "TWINSTEP_STATUS"
"""Environment: where the status of this one start is written as well, even if its folder is unknown or another's."""


class Status:
    """The status of one start. Rank 0 writes it, or the rank that alone knows how the start ended.

    `reports` says whether this is rank 0, or a process that knows of no other and speaks for itself, whatever RANK says;
    `reports_for_machine` says whether it is the first rank of its machine.
    """

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        also = environment.get(PATH)
        self._also = None if not also else Path(also)
        self.reports = environment.get("RANK", "0") == "0" or environment.get("WORLD_SIZE", "1") == "1"
        self.reports_for_machine = environment.get("LOCAL_RANK", "0") == "0"
        self._restarted = environment.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"
        self._launcher = f"{socket.gethostname()} {os.getppid()}"
        self.folder: Path | None = None
        """The run's folder, once this start holds it."""
        self.before: dict[str, Any] = {}
        """What the folder's status said before this start began; nothing in a new folder."""
        self.works = False
        """Whether this start has changed the run: it trains, or replays the trace."""

    def check(self) -> None:
        """Raise BadInput if the environment names something for this status that is no file, such as a device."""
        try:
            if self._also is not None:
                refuse_special(self._also)
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise BadInput(f"{PATH} = {self._also}: {reason}; name a file, or unset the variable") from None

    def begin(self, folder: Path) -> None:
        """Write that the run is running: its folder is held. Raises OSError."""
        if self._also is not None:
            self._also.unlink(missing_ok=True)  # of an earlier start of this launcher
        self.before = read_status(folder / STATUS)
        write_json(folder / STATUS, self._entry(None))

    def is_written(self) -> bool:
        """Return whether a rank has written how this start ends."""
        return any(read_status(path).get("exit_code") is not None for path in self._paths())

    def write(self, code: int, reason: str = "", step: int | None = None, *, retry: bool = False) -> None:
        """Write how the start ends. `retry` says that the same command may well succeed.

        A complete run stays done when a start in its folder is refused, or stopped, before it has changed the run.
        """
        entry = self._entry(code, reason, step, retry=retry)
        stays = self.before.get("state") == "done" and not self.works and code not in (EXIT_DONE, EXIT_FAULT)
        for path in self._paths():
            with contextlib.suppress(OSError):  # a full disk must not hide the message that says so
                write_json(path, self.before if stays and path != self._also else entry)

    def final_status(self, folder: Path) -> dict[str, Any] | None:
        """Return the status of an earlier start by this launcher if it was final: exit code 2 or 75. Otherwise return None.

        A launcher with --max_restarts starts again whatever the exit code was; after a final one there is nothing to do.
        """
        for path in (folder / STATUS, self._also):  # the folder may belong to a complete run, and say so
            said = {} if path is None else read_status(path)
            ours = self._restarted and said.get("launcher") == self._launcher  # or it is of an earlier day
            if ours and said.get("exit_code") in (EXIT_BAD_INPUT, EXIT_STOPPED):
                return said
        return None

    def _entry(
        self, code: int | None, reason: str = "", step: int | None = None, *, retry: bool = False
    ) -> dict[str, object]:
        state = {None: "running", EXIT_DONE: "done", EXIT_STOPPED: "stopped"}.get(code, "failed")
        return {
            "state": state,
            "exit_code": code,
            "reason": reason,
            "step": step,
            "retry": retry,
            "launcher": self._launcher,
        }

    def _paths(self) -> list[Path]:
        own = self.folder and self.folder / STATUS
        return [path for path in (own, self._also) if path is not None]


def is_of_a_run(path: Path) -> bool:
    """Return whether a status.json is there, and of a run, or too damaged to tell. Raises OSError."""
    try:
        said = read_json(path)
    except FileNotFoundError:
        return False
    except ValueError:
        return True
    return isinstance(said, dict) and "exit_code" in said


def read_status(path: Path) -> dict[str, Any]:
    """Return what a status says, and nothing where there is none that can be read."""
    try:
        return dict(read_json(path))
    except (OSError, ValueError, TypeError):
        return {}
