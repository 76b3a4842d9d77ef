"""One start at a time in a folder; the dead hold nothing."""

import errno
import fcntl
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from distrib.errors import BadInput
from distrib.job import lock

HOLDER = """
import sys, time
from pathlib import Path
from distrib.job import lock
lock.acquire(Path(sys.argv[1]), print)
print("held", flush=True)
time.sleep(600)
"""


@contextmanager
def another(folder: Path, **environment: str) -> Generator["subprocess.Popen[str]"]:
    """A process that holds the folder."""
    command = [sys.executable, "-c", HOLDER, str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | environment) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def take(folder: Path, said: list[str], job: str | None = None, wait: float = 0.5) -> None:
    os.close(lock.acquire(folder, said.append, {} if job is None else {"SLURM_JOB_ID": job}, wait))


def test_an_empty_folder_and_one_that_was_let_go(tmp_path: Path) -> None:
    said: list[str] = []
    take(tmp_path, said)
    take(tmp_path, said)
    assert said == []


@pytest.mark.parametrize("job", [None, "7"])
def test_another_run_is_named_at_once(tmp_path: Path, job: str | None) -> None:
    with another(tmp_path, SLURM_JOB_ID="5") as holder:
        began = time.monotonic()
        with pytest.raises(BadInput) as caught:
            take(tmp_path, [], job, wait=600)
        assert time.monotonic() - began < 300
    for word in (str(tmp_path), f"process {holder.pid}", "SLURM job 5", "output.dir"):
        assert word in str(caught.value)


def test_a_killed_holder_blocks_nobody(tmp_path: Path) -> None:
    with another(tmp_path) as holder:
        holder.kill()
        holder.wait()
        take(tmp_path, [])


def test_the_jobs_own_earlier_start_is_waited_for(tmp_path: Path) -> None:
    said: list[str] = []
    with another(tmp_path, SLURM_JOB_ID="5") as holder:
        end = threading.Timer(1, holder.kill)
        end.start()
        take(tmp_path, said, "5", wait=30)
        end.join()
    [line] = said
    assert "an earlier start of this job" in line


def test_the_wait_for_it_has_an_end(tmp_path: Path) -> None:
    with another(tmp_path, SLURM_JOB_ID="5"), pytest.raises(BadInput, match="in use"):
        take(tmp_path, [], "5", wait=0.5)


@pytest.mark.parametrize("text", ["", "{", "[]", "null"])
def test_a_holder_that_has_not_written_its_name(tmp_path: Path, text: str) -> None:
    with another(tmp_path):
        (tmp_path / ".lock").write_text(text)
        with pytest.raises(BadInput, match="another run"):
            take(tmp_path, [])


def test_a_disk_without_locks_is_said_to_be_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_file: int, _how: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    said: list[str] = []
    take(tmp_path, said)
    [line] = said
    assert "without locks" in line


def test_what_the_lock_says(tmp_path: Path) -> None:
    take(tmp_path, [], "12")
    assert json.loads((tmp_path / ".lock").read_text())["slurm_job"] == "12"


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE], ids=errno.errorcode.get)
def test_a_disk_that_breaks_is_not_one_without_locks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(_file: int, _how: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(OSError, match=r"\.lock'$") as caught:
        take(tmp_path, [])
    assert caught.value.errno == number


def test_a_link_in_its_place_does_not_lead_to_what_it_names(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("mine")
    (tmp_path / ".lock").symlink_to(tmp_path / "precious")
    with pytest.raises(OSError, match=r"\.lock'$"):
        take(tmp_path, [])
    assert (tmp_path / "precious").read_text() == "mine"


def test_a_pipe_in_its_place_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / ".lock")
    with pytest.raises(OSError, match="a pipe is in its place"):
        take(tmp_path, [])
