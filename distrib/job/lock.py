"""Lets one start at a time into a run's folder, on whatever machine of a cluster.

The kernel holds the lock for the process, on a local disk and on NFS alike, and drops it when the process dies:
a dead job never blocks its own requeue.
"""

import errno
import fcntl
import json
import os
import socket
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from distrib.errors import BadInput
from distrib.files import refuse_special, retry_transient
from distrib.layout import LOCK

_WITHOUT_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)
"""What a disk without locks answers."""
_WAIT_SECONDS = 120.0  # for a node that was cut off, until its file server gives its locks up (NFS: 90 s)


def acquire(
    folder: Path,
    say: Callable[[str], None],
    environment: Mapping[str, str] = os.environ,
    wait: float = _WAIT_SECONDS,
) -> int:
    """Take the lock and return the descriptor that holds it, until it is closed or the process ends.

    An earlier start of the same SLURM job is waited for, `wait` seconds: it is about to die.
    Raises BadInput if another run holds the folder, OSError if the folder cannot be written.
    """
    job = environment.get("SLURM_JOB_ID")
    path = folder / LOCK
    file = retry_transient(path, lambda: _open(path))
    give_up, waited = time.monotonic() + wait, False
    while not retry_transient(path, lambda: _taken(file, folder, say)):
        holder = _holder(file)
        if job is None or holder.get("slurm_job") != job or time.monotonic() > give_up:
            os.close(file)
            raise BadInput(
                f"output.dir = {folder} is in use by {_described(holder)}: wait for it to end, or choose another output.dir"
            )
        if not waited:
            say(f"waiting for {_described(holder)}, an earlier start of this job, to let go of {folder}/")
            waited = True
        time.sleep(0.2)
    here = {"host": socket.gethostname(), "pid": os.getpid(), "slurm_job": job, "since": time.strftime("%F %T")}

    def sign() -> None:
        os.ftruncate(file, 0)
        os.pwrite(file, json.dumps(here).encode(), 0)

    retry_transient(path, sign)
    return file


def _open(path: Path) -> int:
    """Open the lock, a file of its own: what a link or a pipe leads to would be overwritten, or waited for."""
    refuse_special(path)
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)


def _taken(file: int, folder: Path, say: Callable[[str], None]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _WITHOUT_LOCKS:
            raise
        say(f"note: {folder} is on a disk without locks ({error.strerror}): a second run in it would go unnoticed")
    return True


def _holder(file: int) -> dict[str, Any]:
    try:
        return dict(json.loads(os.pread(file, 4096, 0)))
    except (ValueError, TypeError, RecursionError):  # it has not written its name yet
        return {}


def _described(holder: Mapping[str, Any]) -> str:
    if not holder:
        return "another run"
    job = f", SLURM job {holder['slurm_job']}" if holder.get("slurm_job") else ""
    return f"another run (process {holder.get('pid')} on {holder.get('host')}{job}, since {holder.get('since')})"
