"""Says in words what a run computes and how fast: the figures beside the charts of its page."""

import math
from collections.abc import Iterator

from distrib.page.run_files import RunFiles

_PREFIXES = ("", "k", "M", "G", "T", "P", "E", "Z")


def figures(run: RunFiles) -> Iterator[tuple[str, str]]:
    """Yield name and value of each figure that the run has; rates and memory are those of the last epoch."""
    facts = run.facts

    def last(name: str) -> float | None:
        column = run.epochs.values[name]
        return float(column[-1]) if len(column) and math.isfinite(column[-1]) else None

    if (images := last("images_per_second")) is not None:
        yield "images a second, last epoch", f"{images:,.0f}"
    if (waited := last("data_share")) is not None:
        yield "waiting for batches, last epoch", f"{waited:.1%} of a step"
    if (flops := last("flop_per_second")) is not None:
        yield "FLOP a second, last epoch", scaled(flops, "FLOP/s")
    if facts.peak_flop_per_second is not None:
        yield "measured peak", scaled(facts.peak_flop_per_second, "FLOP/s") + _used(facts.peak_flop_per_second, flops)
    if facts.flop_per_image is not None:
        yield "FLOP of an image", scaled(facts.flop_per_image, "FLOP") + ", forward and backward"
    if (flop := last("flop")) is not None:
        yield "FLOP of training", scaled(flop, "FLOP")
    if (memory := last("peak_memory")) is not None:
        yield "peak memory of rank 0", f"{memory / 2**20:,.0f} MiB"


def _used(peak: float, flops: float | None) -> str:
    """Return in words how much of the measured peak the run reaches."""
    if flops is None:
        return ""
    if flops > peak:
        return ", which the run exceeds: the device was probably busy while it was measured"
    return f", of which {flops / peak:.1%} is used"


def scaled(value: float, unit: str) -> str:
    """Return a number with three digits and a prefix for its thousands, such as 69.2 MFLOP."""
    steps = 0
    while value >= 999.5 and steps < len(_PREFIXES) - 1:
        value, steps = value / 1000, steps + 1
    return f"{value:.3g} {_PREFIXES[steps]}{unit}"
