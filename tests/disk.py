"""A disk that can be filled, and become read-only: a small tmpfs, where root may mount one."""

import contextlib
import shutil
import subprocess
from pathlib import Path
from typing import Literal


class Disk:
    def __init__(self, folder: Path, megabytes: int = 384) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.small = _succeeds("mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder))
        """Whether it is one, which can be filled without harm to anybody else."""

    def fill(self, leave: int = 0) -> None:
        """To the last block, or to `leave` bytes before it."""
        with self._ballast.open("wb", buffering=0) as file:
            for size in (2**20, 512):
                with contextlib.suppress(OSError):
                    while file.write(b"\0" * size):
                        pass
            file.truncate(file.tell() - leave)

    def relieve(self) -> None:
        self._ballast.unlink(missing_ok=True)

    def become(self, access: Literal["ro", "rw"]) -> None:
        """Read-only, as a kernel makes a disk that fails, or writable again."""
        if not _succeeds("mount", "-o", f"remount,{access}", str(self.folder)):
            raise OSError(f"{self.folder} does not become {access}")

    def unmount(self) -> None:
        """What is on it is gone."""
        if self.small:
            self.small = not _succeeds("umount", str(self.folder))

    @property
    def _ballast(self) -> Path:
        return self.folder / "ballast"


def _succeeds(tool: str, *arguments: str) -> bool:
    found = shutil.which(tool)
    return found is not None and subprocess.run([found, *arguments], capture_output=True, check=False).returncode == 0
