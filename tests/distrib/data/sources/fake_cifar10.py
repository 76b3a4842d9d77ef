"""What stands in for CIFAR-10 and for the place that it is downloaded from."""

import pytest
from torchvision.datasets import CIFAR10

from distrib.data.sources import cifar10

CLASSES = ["plane", "car", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
PER_FILE = 20


def point_at(port: int, monkeypatch: pytest.MonkeyPatch, scheme: str = "http") -> None:
    monkeypatch.setattr(CIFAR10, "url", f"{scheme}://127.0.0.1:{port}/cifar-10-python.tar.gz")


def downloads(code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the downloading process run `code` with `folder` as what the archive unpacks to."""
    start = "import sys, pathlib; folder = pathlib.Path(sys.argv[1], 'cifar-10-batches-py'); "
    monkeypatch.setattr(cifar10, "_DOWNLOAD", start + code)
