"""A disk that can be filled: a small tmpfs, where root may mount one."""

import contextlib
import shutil
import subprocess
from pathlib import Path

_MEGABYTES = 384


class Disk:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True)
        self.small = _succeeds("mount", "-t", "tmpfs", "-o", f"size={_MEGABYTES}m", "tmpfs", str(folder))
        """Whether it can be filled without harm to anybody else."""

    def fill(self) -> None:
        """To the last block."""
        with self._ballast.open("wb", buffering=0) as file:
            for size in (2**20, 512):
                with contextlib.suppress(OSError):
                    while file.write(b"\0" * size):
                        pass

    def relieve(self) -> None:
        self._ballast.unlink(missing_ok=True)

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
