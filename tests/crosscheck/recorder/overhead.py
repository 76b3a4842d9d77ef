"""What recording costs a training: `python -m tests.crosscheck.recorder.overhead [NETWORK …]`.

Two copies of a network train in one process, step about, one of them with the default recording. Each figure is a ratio of
medians, so that a noisy machine says as much as a quiet one: of whole steps (forward, backward, optimizer; 32 examples) and of
the optimizer's step alone.
"""

import argparse
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
import torchvision
from torch import Tensor, nn

from crosscheck import Recorder
from distrib.networks.article import article

_EXAMPLES = 32
Batch = tuple[Tensor, Tensor]


class Case(NamedTuple):
    make: Callable[[], nn.Module]
    batch: Callable[[], Batch]
    steps: int


class _Deep(nn.Module):
    """A thousand tensors of 32 x 32."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.ParameterList([nn.Parameter(0.2 * torch.randn(32, 32)) for _ in range(1000)])

    def forward(self, x: Tensor) -> Tensor:
        for weight in self.weights:
            x = torch.tanh(x @ weight)
        return x


def _wide() -> nn.Module:
    """Return 100 million parameters in five tensors."""
    layers = (layer for _ in range(5) for layer in (nn.Linear(4472, 4472, bias=False), nn.ReLU()))
    return nn.Sequential(*layers)


def _images(size: int) -> Batch:
    return torch.randn(_EXAMPLES, 3, size, size), torch.randint(0, 10, (_EXAMPLES,))


def _vectors(width: int) -> Batch:
    return torch.randn(_EXAMPLES, width), torch.randint(0, width, (_EXAMPLES,))


CASES = {
    "article": Case(article, lambda: _images(32), 400),
    "1,000 tensors": Case(_Deep, lambda: _vectors(32), 200),
    "ResNet-50": Case(lambda: torchvision.models.resnet50(num_classes=10), lambda: _images(64), 24),
    "100 M": Case(_wide, lambda: _vectors(4472), 16),
}


def measure(case: Case, folder: Path) -> str:
    """Train both copies and return a line about them."""
    torch.manual_seed(0)
    models = [case.make() for _ in range(2)]
    optimizers = [torch.optim.AdamW(model.parameters(), lr=1e-3) for model in models]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    whole: list[list[float]] = [[], []]
    alone: list[list[float]] = [[], []]
    with Recorder(optimizers[0], folder):
        for step in range(case.steps):
            images, labels = case.batch()
            for k in (0, 1) if step % 2 else (1, 0):
                begun = time.perf_counter()
                optimizers[k].zero_grad()
                nn.functional.cross_entropy(models[k](images), labels).backward()
                ready = time.perf_counter()
                optimizers[k].step()
                done = time.perf_counter()
                whole[k].append(done - begun)
                alone[k].append(done - ready)
    size = sum(file.stat().st_size for file in folder.rglob("*.safetensors"))
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    plain = statistics.median(whole[1])
    return (
        f"whole step {_ratio(whole):.3f} of {1e3 * plain:.1f} ms, optimizer {_ratio(alone):.2f} of "
        f"{1e3 * statistics.median(alone[1]):.2f} ms, all steps {sum(whole[0]) / sum(whole[1]):.3f}, longest "
        f"{max(whole[0]) / plain:.1f}, {size / case.steps / 1024:.0f} KiB a step, {grown:.0f} MiB with the training's own"
    )


def _ratio(seconds: Sequence[Sequence[float]]) -> float:
    warm = len(seconds[0]) // 10 + 3  # the first steps are recorded in full
    return statistics.median(seconds[0][warm:]) / statistics.median(seconds[1][warm:])


def main() -> None:
    """Measure the networks that are named, or all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("network", nargs="*", choices=[*CASES, []], help=", ".join(CASES))
    names: list[str] = parser.parse_args().network or list(CASES)
    torch.set_num_threads(os.cpu_count() or 1)
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            print(f"{name}: {measure(CASES[name], Path(folder) / 'trace')}", flush=True)


if __name__ == "__main__":
    main()
