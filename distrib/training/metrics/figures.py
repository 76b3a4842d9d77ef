"""Computes how many FLOP a run takes, how fast it is, at which share of what the devices can do, and in how much memory."""

import resource
from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class Compute:
    """What an image costs, and what the devices of all ranks together can do."""

    flop_per_image: int | None  # forward and backward; None where it could not be counted
    peak: float  # FLOP a second, measured

    def flop(self, images: int) -> int | None:
        """Return the FLOP of training on so many images."""
        return None if self.flop_per_image is None else self.flop_per_image * images

    def rates(self, images_per_second: float | None) -> dict[str, float | None]:
        """Return under their names in metrics.jsonl the speed in images and in FLOP, and the share of the measured peak, 1 for
        all of it.

        There is no share where the run is faster than that peak: the device was busy when it was measured.
        """
        flops = share = None
        if self.flop_per_image is not None and images_per_second is not None:
            flops = self.flop_per_image * images_per_second
            share = flops / self.peak if flops <= self.peak else None
        return {
            "images_per_second": images_per_second,
            "flop_per_second": flops,
            "share_of_peak": share,
        }


def peak_memory() -> int:
    """Return the most bytes that tensors took on a GPU, or this process on a CPU, since it began."""
    if torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # KiB on Linux
