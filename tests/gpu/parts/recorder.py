"""What stands beside the training costs: the recorder, the digests that ranks compare, a checkpoint."""

import os
import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from crosscheck import Recorder
from distrib.checkpoint import store
from distrib.checkpoint.bench import copy_synced
from distrib.ranks.digests import digests
from tests.gpu.part import Case, Cases, Setting, Skipped
from tests.gpu.parts.optimizer import ARTICLE, expect_room
from tests.gpu.report import Column, Figures
from tests.gpu.timing import copy_bandwidth, seconds_of, wall_seconds

MODELS: dict[str, Sequence[int]] = {
    "0.15 M in 10 tensors": ARTICLE,
    "1,000 tensors of 32 x 32": (1024,) * 1000,
    "10 M in 50 tensors": (200_000,) * 50,
    "100 M in 50 tensors": (2_000_000,) * 50,
}
HUGE = {"1 G in 50 tensors": (20_000_000,) * 50}
REHEARSED = "0.15 M in 10 tensors"
_HOST_BYTES = 60  # that a step recorded in full needs on the host for each parameter of Adam, with what is written
_MOST_IN_FULL = 200_000_000  # parameters; more would take minutes


def _cases(setting: Setting) -> list[Case]:
    *small, large = MODELS
    return [
        *(Case(f"recorder, Adam, {name}", partial(_recorder, setting, name)) for name in small),
        *(Case(f"digests, Adam, {name}", partial(_digests, setting, name)) for name in MODELS),
        *(Case(f"checkpoint, Adam, {name}", partial(_checkpoint, setting, name)) for name in (REHEARSED, large)),
        *(Case(f"recorder, Adam, {name}", partial(_recorder, setting, name)) for name in (*HUGE, large)),
    ]


def _recorder(setting: Setting, name: str) -> Figures:
    """A step that records its sampled coordinates beside one that does not, and one step recorded in full."""
    _rehearse(setting, name)
    shapes = (MODELS | HUGE)[name]
    expect_room(setting.device, 4 * 4 * sum(shapes))
    optimizer = _adam(setting, shapes)
    bare = seconds_of(optimizer.step, setting.device)
    trace = setting.work / f"trace-{len(shapes)}-{sum(shapes)}"
    with Recorder(optimizer, trace, steps=()) as recorder:
        recorded = seconds_of(optimizer.step, setting.device)
        steps = recorder.step
    sampled = _bytes_below(trace)
    note = f"{sampled / steps / 1024:,.0f} KiB a step; {_in_full(setting, optimizer, trace, sum(shapes), steps + 1)}"
    shutil.rmtree(trace)
    return {"plain": bare * 1e3, "measured": recorded * 1e3, "ratio": recorded / bare, "note": note}


def _adam(setting: Setting, shapes: Sequence[int]) -> torch.optim.Optimizer:
    """Fused Adam on parameters of these sizes, with gradients."""
    parameters = [torch.nn.Parameter(torch.randn(count, device=setting.device)) for count in shapes]
    for parameter in parameters:
        parameter.grad = torch.randn_like(parameter)
    return torch.optim.Adam(parameters, lr=1e-3, fused=True)


def _in_full(setting: Setting, optimizer: torch.optim.Optimizer, trace: Path, size: int, step: int) -> str:
    """What it costs to record a step with every element, and to commit it."""
    needed, free = size * _HOST_BYTES, os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if size > _MOST_IN_FULL or needed > free:
        return f"a step recorded in full was not tried: it needs {needed / 2**30:.0f} GiB of the host"
    before = _bytes_below(trace)
    with Recorder(optimizer, trace, steps=(step,), append=True, first_step=step) as recorder:

        def whole() -> None:
            optimizer.step()
            recorder.flush()

        seconds = wall_seconds(whole, setting.device)
    return f"a step recorded in full {seconds:.2f} s, {(_bytes_below(trace) - before) / 2**20:,.0f} MiB"


def _digests(setting: Setting, name: str) -> Figures:
    """Of parameters and both moments, beside reading them once at the rate of a large copy."""
    _rehearse(setting, name)
    tensors = [torch.randn(count, device=setting.device) for count in MODELS[name] for _ in range(3)]
    device = torch.device(setting.device)
    seconds = seconds_of(lambda: digests(tensors, device).cpu(), setting.device, repeats=10)
    floor = sum(tensor.nbytes for tensor in tensors) / copy_bandwidth(setting.device)
    return {"plain": floor * 1e3, "measured": seconds * 1e3, "ratio": seconds / floor, "note": "beside reading once"}


def _checkpoint(setting: Setting, name: str) -> Figures:
    """Parameters and both moments, written, synced, read back and hashed, beside a synced copy of the same files."""
    _rehearse(setting, name)
    weights = {f"{number}": torch.randn(count, device=setting.device) for number, count in enumerate(MODELS[name])}
    state = {f"{slot}/{key}": value.clone() for slot in ("exp_avg", "exp_avg_sq") for key, value in weights.items()}
    folder = setting.work / f"checkpoint-{len(weights)}"
    written = Path()

    def save() -> None:
        nonlocal written
        parts: dict[str, dict[str, Tensor]] = {"model": _on_host(weights), "optimizer": _on_host(state)}
        written = store.save(folder, 1, parts, {}, keep=1)

    saved = wall_seconds(save, setting.device)
    size = _bytes_below(written)
    copied = wall_seconds(lambda: copy_synced(written, folder / "copy"), setting.device)
    shutil.rmtree(folder)
    return {
        "plain": copied * 1e3,
        "measured": saved * 1e3,
        "ratio": saved / copied,
        "note": f"{size / 1e9:.2f} GB, {saved / size * 1e9:.2f} s a GB; beside a synced copy of the files",
    }


def _rehearse(setting: Setting, name: str) -> None:
    if setting.small and name != REHEARSED:
        raise Skipped("not rehearsed")


def _on_host(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.cpu() for name, tensor in tensors.items()}


def _bytes_below(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


PART = Cases(
    title="the recorder, the digests of the ranks' comparison, and checkpoints",
    columns=(
        Column(key="plain", title="without, ms", form=",.2f"),
        Column(key="measured", title="with, ms", form=",.2f"),
        Column(key="ratio", title="ratio", form=",.2f"),
        Column(key="note", title="what it is"),
    ),
    cases=_cases,
)
