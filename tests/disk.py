"""Gives tests a disk that they can fill or make read-only: a small tmpfs, if this process may mount one.

It also makes calls fail as on a bad disk.
"""

import contextlib
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal


class Disk:
    """A folder that is a small tmpfs, or a plain folder where none can be mounted."""

    def __init__(self, folder: Path, megabytes: int = 384) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.small = _succeeds("mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder))
        """Whether the folder is a small disk of its own, so that filling it harms nobody else."""

    def fill(self, leave: int = 0) -> None:
        """Fill the disk to its last block, or leave `leave` bytes free."""
        with self._ballast.open("wb", buffering=0) as file:
            for size in (2**20, 512):
                with contextlib.suppress(OSError):
                    while file.write(b"\0" * size):
                        pass
            file.truncate(file.tell() - leave)

    def relieve(self) -> None:
        """Free what `fill` took."""
        self._ballast.unlink(missing_ok=True)

    def become(self, access: Literal["ro", "rw"]) -> None:
        """Make the disk read-only, as a kernel does when a disk fails, or writable again. Raises OSError."""
        if not _succeeds("mount", "-o", f"remount,{access}", str(self.folder)):
            raise OSError(f"{self.folder} does not become {access}")

    def unmount(self) -> None:
        """Unmount the disk, which deletes everything on it."""
        if self.small:
            self.small = not _succeeds("umount", str(self.folder))

    @property
    def _ballast(self) -> Path:
        return self.folder / "ballast"


def at_once(_seconds: float) -> None:
    """Stand in for `time.sleep`."""


def failing(number: int, times: int, work: Callable[..., Any]) -> Callable[..., Any]:
    """Return `work`, which fails with this error so many times first."""
    left = [times]

    def fail(*arguments: Any, **others: Any) -> Any:
        if left[0] > 0:
            left[0] -= 1
            raise OSError(number, os.strerror(number))
        return work(*arguments, **others)

    return fail


def _succeeds(tool: str, *arguments: str) -> bool:
    found = shutil.which(tool)
    return found is not None and subprocess.run([found, *arguments], capture_output=True, check=False).returncode == 0
