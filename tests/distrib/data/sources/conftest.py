"""A small set in CIFAR-10's own format, and ports at which nothing is to be downloaded."""

import hashlib
import pickle
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy
import pytest
from torchvision.datasets import CIFAR10

from distrib.data.sources import cifar10
from tests.distrib.data.sources.fake_cifar10 import CLASSES, PER_FILE


@pytest.fixture
def small_cifar10(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in CIFAR-10's own format with 20 images a file, whose md5 sums torchvision expects."""
    root = tmp_path / "cifar"
    (root / cifar10.ARCHIVE_FOLDER).mkdir(parents=True)

    def write(name: str, content: dict[str, Any]) -> list[str]:
        raw = pickle.dumps(content)
        (root / cifar10.ARCHIVE_FOLDER / name).write_bytes(raw)
        return [name, hashlib.md5(raw, usedforsecurity=False).hexdigest()]

    def images(name: str) -> list[str]:
        # Channel by channel, as in the archive: red 10, green 20, blue the image's number.
        pixels = numpy.repeat(numpy.array([[10, 20, 0]], dtype=numpy.uint8), PER_FILE, axis=0)
        pixels[:, 2] = numpy.arange(PER_FILE)
        return write(name, {"data": pixels.repeat(1024, axis=1), "labels": [i % 10 for i in range(PER_FILE)]})

    meta_name, meta_sum = write("batches.meta", {"label_names": CLASSES})
    monkeypatch.setattr(CIFAR10, "meta", {"filename": meta_name, "key": "label_names", "md5": meta_sum})
    monkeypatch.setattr(CIFAR10, "train_list", [images(f"data_batch_{i}") for i in range(1, 6)])
    monkeypatch.setattr(CIFAR10, "test_list", [images("test_batch")])
    return root


@pytest.fixture
def silent_server() -> Iterator[int]:
    """The port of a server that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.fixture
def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]
