"""The optimizer's step alone, beside the time that moving its bytes takes at the rate of a large copy."""

import itertools
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import torch

from tests.gpu.part import Case, Cases, Device, Setting, Skipped
from tests.gpu.report import Column, Figures
from tests.gpu.timing import copy_bandwidth, seconds_of

ARTICLE = (2400, 32, 25600, 32, 51200, 64, 65536, 64, 640, 10)
"""Elements of each tensor of the article's network; 0.15 million in all."""
SIZES = {"0.15 M": ARTICLE, **{f"{m:,} M".replace(",000 M", " G"): (m * 20_000,) * 50 for m in (10, 100, 1000)}}
IMPLEMENTATIONS: dict[str, dict[str, bool]] = {
    "fused": {"fused": True},
    "foreach": {"foreach": True},
    "single": {"foreach": False},
    "capturable, in a CUDA graph": {"foreach": True, "capturable": True},
    "fused and capturable, in a CUDA graph": {"fused": True, "capturable": True},
}
KINDS: dict[str, tuple[type[torch.optim.Optimizer], dict[str, Any], int, int]] = {
    "SGD": (torch.optim.SGD, {"lr": 1e-3, "momentum": 0.9}, 5, 3),
    "Adam": (torch.optim.Adam, {"lr": 1e-3}, 7, 4),
}
"""The class, its options, the numbers that a step must read or write for each parameter, and those that it keeps:
SGD reads parameter, gradient and momentum and writes the first and the last; Adam has two moments."""
_TEMPORARY = 3  # numbers a parameter that foreach holds beside those that are kept, at most


def _cases(setting: Setting) -> list[Case]:
    bandwidth = cache(lambda: copy_bandwidth(setting.device))
    return [
        Case(f"{kind}, {size}, {name}", partial(_measure, setting, bandwidth, kind, size, name))
        for size, kind, name in itertools.product(SIZES, KINDS, IMPLEMENTATIONS)
        if kind != "SGD" or "capturable" not in name  # SGD has no such option
    ]


def _measure(setting: Setting, bandwidth: Callable[[], float], kind: str, size: str, name: str) -> Figures:
    if setting.small and size != "0.15 M":
        raise Skipped("not rehearsed")
    options = IMPLEMENTATIONS[name]
    if options.get("capturable") and setting.device != "cuda":
        raise Skipped("needs a GPU")
    elements = SIZES[size]
    make, own, moved, kept = KINDS[kind]
    expect_room(setting.device, 4 * sum(elements) * (kept + (0 if "fused" in options else _TEMPORARY)))
    parameters = [torch.nn.Parameter(torch.randn(count, device=setting.device)) for count in elements]
    for parameter in parameters:
        parameter.grad = torch.randn_like(parameter)
    optimizer = make(parameters, **own, **options)  # pyright: ignore[reportArgumentType]
    step = _captured(optimizer) if options.get("capturable") else optimizer.step
    seconds = seconds_of(step, setting.device)
    floor = 4 * moved * sum(elements) / bandwidth()
    return {"step": seconds * 1e3, "floor": floor * 1e3, "share": floor / seconds}


def expect_room(device: Device, needed: int) -> None:
    """Raises Skipped."""
    if device == "cuda":
        torch.cuda.empty_cache()
        free, _ = torch.cuda.mem_get_info()
        if needed > 0.9 * free:
            raise Skipped(f"needs {needed / 2**30:.0f} GiB, and {free / 2**30:.0f} GiB of the GPU are free")


def _captured(optimizer: torch.optim.Optimizer) -> Callable[[], None]:
    """Its step as a CUDA graph, after a few steps on a side stream, as torch's notes on CUDA graphs ask."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            optimizer.step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        optimizer.step()
    return graph.replay


PART = Cases(
    title="the optimizer's step alone, and its share of the rate of a large copy",
    columns=(
        Column(key="step", title="ms a step", form=".3f"),
        Column(key="floor", title="ms for its bytes at the copy's rate", form=".3f"),
        Column(key="share", title="share of that rate", form=".0%"),
    ),
    cases=_cases,
)
