"""CIFAR-10 by torchvision: on disk, or downloaded, or (for `auto`) given up on quickly."""

import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from urllib.parse import urlsplit

import torch

from distrib.data.images import Dataset, Split
from distrib.errors import BadInput

ARCHIVE_FOLDER = "cifar-10-batches-py"
_PROBE_SECONDS = 3
_DOWNLOAD_SECONDS = 30

_DOWNLOAD = "import sys, torchvision; torchvision.datasets.CIFAR10(sys.argv[1], download=True)"


def load(root: Path, *, download: bool) -> Dataset:
    """Torchvision checks the md5 of every file before it unpickles any."""
    from torchvision.datasets import CIFAR10

    try:
        root.mkdir(parents=True, exist_ok=True)
        train, test = (CIFAR10(root, train=split, download=download and not on_disk(root)) for split in (True, False))
    except (OSError, RuntimeError) as error:
        raise BadInput(
            f"data.source = cifar10: torchvision could not load or download it into {root} ({error}); "
            "put the extracted cifar-10-batches-py folder there (data.root), or use folder:PATH or synthetic"
        ) from None
    return Dataset("CIFAR-10", tuple(train.classes), _split(train), _split(test))


def on_disk(root: Path) -> bool:
    """Whether it looks as if it were there; loading tells."""
    return os.path.exists(root / ARCHIVE_FOLDER / "batches.meta")  # noqa: PTH110 (never raises)


def fetch_quickly(root: Path) -> bool:
    """Download into `root` if that takes no more than half a minute; say whether it is there now.

    torchvision's downloader has no time limit, so it runs in a process of its own, in a folder of
    its own, and only a complete and verified download is moved into place.
    """
    from torchvision.datasets import CIFAR10

    address = urlsplit(CIFAR10.url)
    try:
        port = address.port or {"http": 80, "https": 443}[address.scheme]
        socket.create_connection((address.hostname, port), timeout=_PROBE_SECONDS).close()
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=root, prefix=".download-") as folder:
            command = [sys.executable, "-c", _DOWNLOAD, folder]
            subprocess.run(command, timeout=_DOWNLOAD_SECONDS, check=True, capture_output=True)
            (Path(folder) / ARCHIVE_FOLDER).rename(root / ARCHIVE_FOLDER)
    except (OSError, subprocess.SubprocessError):
        return on_disk(root)  # offline, slow, or another process was quicker
    return True


def _split(data: object) -> Split:
    images, labels = data.data, data.targets  # pyright: ignore[reportAttributeAccessIssue, reportUnknownVariableType, reportUnknownMemberType]
    return Split(torch.from_numpy(images), torch.tensor(labels))  # pyright: ignore[reportUnknownArgumentType, reportUnknownMemberType]
