"""Loads CIFAR-10 by torchvision, from the disk or downloaded; for `auto` a slow download is given up."""

import os
import socket
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import torch

from distrib.data.images import Dataset, Split
from distrib.errors import BadInput
from distrib.system import kill_with_parent

ARCHIVE_FOLDER = "cifar-10-batches-py"
ARCHIVE = "cifar-10-python.tar.gz"  # as it is downloaded; a node without a network may have been given it
_PROBE_SECONDS = 3
_DOWNLOAD_SECONDS = 30

_DOWNLOAD = "import sys, torchvision; torchvision.datasets.CIFAR10(sys.argv[1], download=True)"


def load(root: Path, *, download: bool) -> Dataset:
    """Return CIFAR-10. Torchvision checks the md5 of every file before it unpickles any. Raises BadInput."""
    from torchvision.datasets import CIFAR10

    try:
        if not extracted(root) and (root / ARCHIVE).exists():
            _extract(root)
        elif download and not extracted(root):
            _fetch(root)
        train, test = (CIFAR10(root, train=split) for split in (True, False))
    except subprocess.CalledProcessError as error:
        why = error.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        raise BadInput(_refusal(root, f"did not come: {why}", download=download)) from None
    except (OSError, RuntimeError) as error:
        raise BadInput(_refusal(root, f"cannot be loaded: {error}", download=download)) from None
    return Dataset("CIFAR-10", tuple(train.classes), _split(train), _split(test))


def _refusal(root: Path, problem: str, *, download: bool) -> str:
    folder, again = root / ARCHIVE_FOLDER, ""
    if os.path.lexists(folder):
        again = f"remove {folder}, and "
        if (root / ARCHIVE).is_file():
            again = f"remove {folder} to have it extracted from {ARCHIVE} again, or "
        elif download:
            again = f"remove {folder} to have it downloaded again, or "
    return (
        f"data.source = cifar10: what torchvision expects in {root} {problem}; {again}put {ARCHIVE}, or the "
        f"extracted {ARCHIVE_FOLDER}, there (data.root), or use folder:PATH or synthetic"
    )


def on_disk(root: Path) -> bool:
    """Return whether CIFAR-10 seems to be there, extracted or as its archive; only loading it tells."""
    return extracted(root) or os.path.exists(root / ARCHIVE)  # noqa: PTH110 (never raises)


def extracted(root: Path) -> bool:
    """Return whether the folder of the archive seems to be there."""
    return os.path.exists(root / ARCHIVE_FOLDER / "batches.meta")  # noqa: PTH110 (never raises)


def fetch_quickly(root: Path) -> bool:
    """Download into `root` if that takes no more than half a minute; say whether it is there now."""
    from torchvision.datasets import CIFAR10

    address = urlsplit(CIFAR10.url)
    try:
        port = address.port or {"http": 80, "https": 443}[address.scheme]
        socket.create_connection((address.hostname, port), timeout=_PROBE_SECONDS).close()
        _fetch(root, _DOWNLOAD_SECONDS)
    except (OSError, subprocess.SubprocessError):
        return on_disk(root)  # offline or slow
    return True


def _extract(root: Path) -> None:
    """Extract the archive, if every byte of it is right. Raises BadInput and OSError."""
    from torchvision.datasets import CIFAR10
    from torchvision.datasets.utils import check_integrity

    if not check_integrity(root / ARCHIVE, CIFAR10.tgz_md5):
        raise BadInput(
            f"data.source = cifar10: {root / ARCHIVE} is not the whole archive (md5 {CIFAR10.tgz_md5} is expected): "
            "copy it again, or remove it"
        )
    with _apart(root) as folder, tarfile.open(root / ARCHIVE) as packed:
        packed.extraction_filter = getattr(tarfile, "data_filter", None)  # Python 3.11.4
        packed.extractall(folder)  # noqa: S202 (its md5 is known, and the filter lets nothing out of the folder)


def _fetch(root: Path, seconds: float | None = None) -> None:
    """Download, by torchvision in a process of its own, which alone can be given a time limit.

    Raises OSError or SubprocessError.
    """
    with _apart(root) as folder:
        command = [*kill_with_parent(), sys.executable, "-c", _DOWNLOAD, folder]
        subprocess.run(command, timeout=seconds, check=True, capture_output=True)


@contextmanager
def _apart(root: Path) -> Generator[str]:
    """Yield a folder within `root`, and move what is extracted there into place at the end.

    A start that is killed leaves no half of a set, and starts that share `root` do not write over each other's. Raises OSError.
    """
    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root, prefix=".download-") as folder:
        yield folder
        try:
            (Path(folder) / ARCHIVE_FOLDER).rename(root / ARCHIVE_FOLDER)
        except OSError:
            if not extracted(root):  # another process was quicker
                raise


def _split(data: object) -> Split:
    images, labels = data.data, data.targets  # pyright: ignore[reportAttributeAccessIssue, reportUnknownVariableType, reportUnknownMemberType]
    return Split(torch.from_numpy(images), torch.tensor(labels))  # pyright: ignore[reportUnknownArgumentType, reportUnknownMemberType]
