"""Configures where a run writes and what it shows, and finds its folder."""

import os
import re
import socket
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Annotated

from pydantic import Field, field_validator

from distrib.config.section import Positive, Section
from distrib.errors import BadInput
from distrib.files import expand_path, retry_transient
from distrib.layout import STATUS, WRITTEN


class OutputConfig(Section):
    """Where the run writes, and what it shows."""

    dir: str | None = None
    """The run's folder; none means runs/<recipe>-<time>, or runs/<recipe>-$TWINSTEP_RUN_ID where that is set."""
    quiet: bool = False
    """No progress bar and no line per epoch; the closing line and errors stay."""
    profile_steps: Positive | None = None
    """Steps that torch.profiler records on rank 0, once in a start and within an epoch, into profile.json (a Chrome trace) and
    profile.txt (a table of operators); they take longer than others."""
    trackers: Annotated[tuple[str, ...], Field(strict=False)] = ()
    """Experiment trackers that Accelerate knows and that are installed, such as tensorboard or `["wandb", "mlflow"]`."""

    @field_validator("trackers", mode="before")
    @classmethod
    def _words(cls, trackers: object) -> object:
        """Read a bare word as a list of one, and words with commas between them as a list of all."""
        return re.findall(r"[^\s,]+", trackers) if isinstance(trackers, str) else trackers


_NFS_SECONDS = 35.0  # until another machine sees a new folder, at the usual settings

RUN_ID = "TWINSTEP_RUN_ID"
"""Environment: names the default folder in place of the time, so that a job started again finds it again."""


def find_folder(given: str | None, name: str) -> Path:
    """Return the folder that `output.dir` gives, or that of a run that was given none, as `default_folder` does.

    Raises BadInput.
    """
    if given is None:
        return default_folder(name)
    if not given.strip():
        raise BadInput(
            f'output.dir = "{given}" names no folder (an unset variable of the shell?): give a name, leave output.dir out '
            "for a new folder in runs/, or write . for the current folder"
        )
    return expand_path(given, "output.dir")


def make_folder(given: str | None, name: str) -> Path:
    """Make the folder that `find_folder` returns, and return it. Raises BadInput, and OSError that names the folder.

    Of runs that begin at the same moment and were given none, each makes its own.
    """
    chosen = given is not None or bool(os.environ.get(RUN_ID))  # and may be there, with a run to continue
    while True:
        folder = find_folder(given, name)
        try:
            retry_transient(folder, partial(folder.mkdir, parents=True, exist_ok=chosen))
        except FileExistsError:
            if chosen:
                raise
        else:
            return folder


def files_in_the_way(folder: Path) -> list[str]:
    """Return the names of what is there that a run would replace.

    An empty folder, such as one for a disk of its own, is not in the way.
    """
    there = [name for name in WRITTEN if os.path.lexists(folder / name)]
    return [name for name in there if not (folder / name).is_dir() or any((folder / name).iterdir())]


def default_folder(name: str, environment: Mapping[str, str] = os.environ) -> Path:
    """Return the folder of a run that was given none, from a name such as that of its recipe.

    Raises BadInput where a launcher that starts again would find a new folder each time.
    """
    job = environment.get(RUN_ID)
    if job:
        return Path("runs") / f"{name}-{job}"
    if int(environment.get("TORCHELASTIC_MAX_RESTARTS", "0")) > 0:
        raise BadInput(
            "the launcher was given --max_restarts, and output.dir is not set: each start would begin anew in a folder of "
            f"its own; give --output.dir, or set {RUN_ID} to a name"
        )
    found = folder = Path("runs") / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
    number = 1
    while os.path.lexists(found):  # small runs of one program begin in the same second
        number += 1
        found = folder.with_name(f"{folder.name}-{number}")
    return found


def wait_until_visible(folder: Path) -> str | None:
    """Wait until this process sees the run's folder, as long as NFS may take. Return the problem if it never does.

    A folder that some nodes do not see would hold the checkpoints for the others only.
    """
    give_up = time.monotonic() + _NFS_SECONDS
    status = folder / STATUS
    while not retry_transient(status, status.exists):
        if time.monotonic() > give_up:
            return (
                f"output.dir = {folder} is not seen by {socket.gethostname()}: choose a folder on a disk that all "
                "machines of the run share (and an absolute path, or the same working directory everywhere)"
            )
        time.sleep(0.2)
    return None
