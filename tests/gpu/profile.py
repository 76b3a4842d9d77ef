"""From a trace of torch.profiler to what the device did in a step: kernels, gaps, and waits of the host."""

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_ON_DEVICE = {"kernel", "gpu_memcpy", "gpu_memset"}
_WAITS = {"cudaDeviceSynchronize", "cudaStreamSynchronize", "cudaEventSynchronize", "cudaMemcpy"}
"""Calls in which the host waits for the device."""
_SHOWN = 6
_LENGTH = 48  # of a kernel's name


@dataclass(frozen=True, slots=True)
class Profile:
    """Means over the steps of a profile."""

    kernels: float
    """Kernels, copies and fills a step."""
    busy: float
    """Share of the time, from the first kernel's begin to the last one's end, in which the device worked."""
    waits: float
    """Times a step that the host waited for the device; the profiler's own wait at its end is among them."""
    largest: str
    """The kernels that took most of the device's time, each with its share."""


def read(path: Path, steps: int) -> Profile | None:
    """Of a file that torch.profiler's export_chrome_trace wrote; None if nothing ran on a device."""
    return summarize(json.loads(path.read_text(encoding="utf-8"))["traceEvents"], steps)


def summarize(events: Iterable[dict[str, Any]], steps: int) -> Profile | None:
    """Of the events of a trace, whose times are microseconds; None if nothing ran on a device."""
    complete = [event for event in events if event.get("ph") == "X"]
    worked = [event for event in complete if event.get("cat") in _ON_DEVICE]
    if not worked:
        return None
    spans = sorted((float(event["ts"]), float(event["ts"]) + float(event["dur"])) for event in worked)
    waits = sum(event.get("cat") == "cuda_runtime" and event["name"] in _WAITS for event in complete)
    return Profile(
        kernels=len(worked) / steps,
        busy=_covered(spans) / (max(end for _, end in spans) - spans[0][0]),
        waits=waits / steps,
        largest=_largest(worked),
    )


def _covered(spans: list[tuple[float, float]]) -> float:
    """The length of the union of intervals that are sorted by their begin."""
    total, reached = 0.0, float("-inf")
    for begin, end in spans:
        total += max(0.0, end - max(begin, reached))
        reached = max(reached, end)
    return total


def _largest(worked: list[dict[str, Any]]) -> str:
    times: Counter[str] = Counter()
    for event in worked:
        times[event["name"]] += event["dur"]
    whole = sum(times.values())
    return "; ".join(f"{_short(name)} {spent / whole:.0%}" for name, spent in times.most_common(_SHOWN))


def _short(name: str) -> str:
    """A kernel's name without its return type and template arguments."""
    plain = name.removeprefix("void ").partition("<")[0].partition("(")[0] or name
    return plain[-_LENGTH:]
