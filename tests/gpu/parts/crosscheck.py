"""The cross-check of each optimizer in each implementation and number format, recorded on the device."""

import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from crosscheck import Recorder
from crosscheck.tolerance import FAIL
from distrib.data.sources import synthetic
from distrib.networks.article import article
from distrib.optim.optimizer import SGD, Adam, AdamW, OptimizerConfig, build_optimizer
from distrib.optim.update import Update
from distrib.system import kill_with_parent
from tests.gpu.part import Case, Cases, Problem, Setting, Skipped
from tests.gpu.report import Column, Figures

OPTIMIZERS: dict[str, Callable[..., OptimizerConfig]] = {
    "SGD": partial(SGD, lr=0.02, momentum=0.9, nesterov=True, weight_decay=5e-4),
    "Adam": partial(Adam, lr=2e-3, weight_decay=1e-4),
    "AdamW": partial(AdamW, lr=2e-3, weight_decay=1e-2),
}
IMPLEMENTATIONS: dict[str, dict[str, bool]] = {
    "fused": {"fused": True},
    "foreach": {"foreach": True},
    "single": {"fused": False, "foreach": False},
    "capturable": {"foreach": True, "capturable": True},
}
FORMATS = ("float32", "bfloat16", "fp16")
"""Of parameters and network; of parameters; of the network alone, with a loss scaler whose first step overflows."""
REHEARSED = {("SGD", "fused", "fp16"), ("Adam", "foreach", "bfloat16"), ("AdamW", "single", "float32")}


@dataclass(frozen=True, slots=True)
class _Training:
    steps: int
    batch: int
    full: frozenset[int]
    """The steps that are recorded whole."""


_WHOLE = _Training(60, 128, frozenset({1, 2, 3, 10, 20, 30, 40, 50, 60}))
_SMALL = _Training(4, 4, frozenset({1, 2}))


def _cases(setting: Setting) -> list[Case]:
    replays = ThreadPoolExecutor(max_workers=max(1, (os.cpu_count() or 1) // 4))  # more would slow the recording
    return [
        Case(f"{name} {implementation} {form}", partial(_check, setting, replays, name, implementation, form))
        for implementation, form, name in itertools.product(IMPLEMENTATIONS, FORMATS, OPTIMIZERS)
        if (name, implementation) != ("SGD", "capturable")  # SGD has no such option
    ]


def _check(setting: Setting, replays: ThreadPoolExecutor, name: str, implementation: str, form: str) -> Future[Figures]:
    """Record on the device, now; replay on the CPU while the next case is recorded."""
    if setting.small and (name, implementation, form) not in REHEARSED:
        raise Skipped("not rehearsed")
    trace = setting.work / f"trace-{name}-{implementation}-{form}"
    torch.manual_seed(0)
    network = article().to(setting.device, torch.bfloat16 if form == "bfloat16" else torch.float32)
    config = OPTIMIZERS[name](**IMPLEMENTATIONS[implementation])
    optimizer = build_optimizer(config, network.named_parameters(), torch.device(setting.device))
    start = time.perf_counter()
    skipped = _record(setting, _SMALL if setting.small else _WHOLE, network, optimizer, trace, scaled=form == "fp16")
    return replays.submit(_replay, trace, skipped, form == "fp16", time.perf_counter() - start)


def _record(
    setting: Setting,
    training: _Training,
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    trace: Path,
    *,
    scaled: bool,
) -> int:
    """Train the network; how many steps the loss scaler skipped."""
    dtype = next(network.parameters()).dtype
    scaler = torch.amp.GradScaler(setting.device, enabled=scaled)
    update = Update(network, optimizer, lambda _applied: 1.0, scaler)
    batches = _batches(setting, training.batch, dtype)
    names = network.named_parameters()
    with Recorder(
        optimizer, trace, named_parameters=names, scaler=scaler, steps=training.full, coordinates=2048
    ) as recorder:
        for step in range(1, training.steps + 1):
            images, labels = next(batches)
            with torch.autocast(setting.device, dtype=torch.float16, enabled=scaled):
                loss = functional.cross_entropy(network(images), labels)
            # Far too large for float16, so that the first step overflows as it does under a real loss scale.
            update.scale(loss * 1e6 if scaled and step == 1 else loss).backward()
            seen = recorder.step
            update.step()
            if recorder.step == seen:  # the scaler did not even call the optimizer
                recorder.skipped(loss_scale=update.loss_scale)
            optimizer.zero_grad()
    return update.skipped


def _batches(setting: Setting, size: int, dtype: torch.dtype) -> Iterator[tuple[Tensor, Tensor]]:
    """Drawn images, scaled to about -1 to 1."""
    drawn = synthetic.load(8 * size + 10, 10).train.to(torch.device(setting.device))
    images = (drawn.images.to(dtype).permute(0, 3, 1, 2) / 128 - 1).contiguous()
    for number in itertools.count():
        part = slice(number % 8 * size, number % 8 * size + size)
        yield images[part], drawn.labels[part]


def _replay(trace: Path, skipped: int, scaled: bool, seconds: float) -> Figures:
    start = time.perf_counter()
    to = trace.with_suffix(".json")
    replayed = subprocess.run(
        [*kill_with_parent(), sys.executable, "-m", "crosscheck", "replay", trace, "--json", to],
        capture_output=True,
        text=True,
        check=False,
    )
    if not to.exists():
        raise Problem(replayed.stderr.strip() or f"the replay ended with {replayed.returncode}")
    report = json.loads(to.read_text(encoding="utf-8"))
    figures: Figures = {
        "verdict": report["verdict"],
        "profile": ", ".join(report["profiles"]),
        "limit": FAIL,
        "elements": report["elements"],
        "skipped": skipped,
        "recording": seconds,
        "replay": time.perf_counter() - start,
        **{slot: _number(eta) for slot, eta in report["eta"].items()},
    }
    if report["verdict"] != "match":
        raise Problem(replayed.stdout.strip().partition("\n")[0], figures)
    if scaled != (skipped > 0) or report["skipped"] != skipped:
        raise Problem(f"{skipped} steps were skipped, and the replay saw {report['skipped']}", figures)
    return figures


def _number(eta: float | str) -> float:
    """JSON has no infinities: they are strings."""
    return float(eta)


PART = Cases(
    title="the worst eta of each slot of each optimizer, implementation and number format, 60 steps of the network each",
    columns=(
        Column(key="verdict", title="verdict"),
        Column(key="profile", title="profile"),
        *(
            Column(key=slot, title=f"eta {slot}", form=".2f")
            for slot in ("param", "momentum_buffer", "exp_avg", "exp_avg_sq")
        ),
        Column(key="limit", title="limit", form=".0f"),
        Column(key="skipped", title="skipped"),
        Column(key="elements", title="elements", form=",d"),
        Column(key="recording", title="recording s", form=".1f"),
        Column(key="replay", title="replay s", form=".1f"),
    ),
    cases=_cases,
)
