"""Helpers to take a trace apart and put it together again, for the tests of damage and of traces written by hand."""

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import save

from crosscheck import Recorder
from crosscheck.__main__ import main
from crosscheck.recorder import Claims, Pass, Winners
from distrib.networks.article import article
from tests.support import ROOT

Meta = dict[str, Any]
Arrays = dict[str, NDArray[Any]]
Change = Callable[[Meta, Arrays], object]
"""A function that changes a part in place."""


def record(folder: Path, make: Callable[[list[torch.nn.Parameter]], torch.optim.Optimizer], steps: int = 6) -> Path:
    """Record a 3x4 tensor, sampled at 5 coordinates, and a vector of 2, with two steps a part. Return the trace."""
    torch.manual_seed(0)
    named = {"weight": torch.nn.Parameter(torch.randn(3, 4)), "bias": torch.nn.Parameter(torch.randn(2))}
    optimizer = make(list(named.values()))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("crosscheck.recorder.samples.sampler.TURN_STEPS", 2)
        with Recorder(optimizer, folder, coordinates=5, named_parameters=named.items()):
            for _ in range(steps):
                for parameter in named.values():
                    parameter.grad = torch.randn_like(parameter)
                optimizer.step()
    return folder


def record_pass(folder: Path) -> Path:
    """Record a step on four images, with its pass. Return the trace."""
    torch.manual_seed(0)
    network = article()
    optimizer = torch.optim.SGD(network.named_parameters(), lr=0.1)
    images, labels = torch.randint(0, 256, (4, 32, 32, 3), dtype=torch.uint8), torch.tensor([1, 2, 3, 4])
    described = Pass(step=1, network="article", compute="float32", mean=(0.5,) * 3, std=(0.25,) * 3, training=True)
    with Recorder(optimizer, folder, claims=Claims()) as recorder:
        with Winners(network) as winners:
            pixels = (images.permute(0, 3, 1, 2) / 255 - 0.5) / 0.25
            torch.nn.functional.cross_entropy(network(pixels), labels).backward()
        recorder.after_backward()
        recorder.add_pass(
            described,
            images=images,
            labels=labels,
            winners=[found for (found,) in winners.found],
            parameters=dict(network.named_parameters()),
        )
        optimizer.step()
    return folder


def adam(parameters: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, lr=0.01)


def sgd(parameters: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.1, momentum=0.9)


def segment(trace: Path) -> Path:
    return trace / "segment-0001"


def part_file(trace: Path, number: int) -> Path:
    return next(segment(trace).glob(f"part-{number:06}.*"))


def read_part(path: Path) -> tuple[Meta, Arrays]:
    """Return the description and the arrays of a part."""
    opened: Any = safe_open(path, framework="np")
    with opened as file:
        return json.loads(file.metadata()["twinstep"]), {name: file.get_tensor(name) for name in list(file.keys())}


def write_part(folder: Path, number: int, meta: Meta | str, arrays: Mapping[str, NDArray[Any]]) -> Path:
    """Write a part under the name with the hash of its content. A description that is a text is written as it is."""
    text = meta if isinstance(meta, str) else json.dumps(meta)
    return write_bytes(folder, number, save(dict(arrays), {"twinstep": text}))


def write_bytes(folder: Path, number: int, data: bytes, *, kind: str = "part-{:06}") -> Path:
    """Write a file under the name with the hash of its content."""
    path = folder / f"{kind.format(number)}.{hashlib.sha256(data).hexdigest()}.safetensors"
    path.write_bytes(data)
    return path


def rewrite(trace: Path, number: int, change: Change) -> None:
    """Change a part, and its name with it."""
    path = part_file(trace, number)
    meta, arrays = read_part(path)
    change(meta, arrays)
    path.unlink()
    write_part(path.parent, number, meta, arrays)


def replace_bytes(trace: Path, number: int, data: bytes) -> None:
    """Replace the content of a part, and its name with it."""
    path = part_file(trace, number)
    path.unlink()
    write_bytes(path.parent, number, data)


def copy(trace: Path, to: Path) -> Path:
    return Path(shutil.copytree(trace, to, symlinks=True))


def run(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str, str]:
    """Run `python -m crosscheck` and return its exit code, standard output and standard error."""
    capsys.readouterr()
    code = main([str(argument) for argument in arguments])
    written = capsys.readouterr()
    return code, written.out, written.err


def peak_of_a_replay(trace: Path) -> int:
    """Replay a trace in a process of its own. Return how many bytes of memory it took beyond what the imports take."""
    code = (
        "import re, sys; from pathlib import Path; from crosscheck.replayer import replay\n"
        "peak = lambda: int(re.search(r'VmHWM:\\s+(\\d+)', Path('/proc/self/status').read_text())[1]) * 1024\n"
        "before = peak(); replay(sys.argv[1]); print(peak() - before)"
    )
    done = subprocess.run([sys.executable, "-c", code, trace], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)
