"""Estimates before the first step what recording will cost."""

import time
from dataclasses import dataclass

from crosscheck.recorder.parts.pending import PART_BYTES
from crosscheck.recorder.samples.digest_ranges import RHYTHM
from crosscheck.recorder.samples.sampler import TURN_STEPS, Sampler


@dataclass(frozen=True, slots=True)
class Estimate:
    """The cost of recording with one budget, while the run is not long enough to be thinned out."""

    elements: int
    """Elements that are recorded of each step."""
    disk_bytes: int
    """Bytes of the trace for each step, in the mean over many."""
    memory_bytes: int
    """Bytes that wait to be written, at most."""
    seconds: float
    """Time that the snapshots of a step take, as it was measured when the recorder was attached."""

    def __str__(self) -> str:
        return (
            f"{self.elements:,} elements, about {self.disk_bytes / 1024:.0f} KiB on disk and {1000 * self.seconds:.2f} ms a "
            f"step, up to {self.memory_bytes / 2**20:.0f} MiB of memory"
        )


def estimate(sampler: Sampler, first_step: int) -> Estimate:
    """Take snapshots of the parameters as in some steps to come, and return what recording every step will cost."""
    reader = sampler.reader(first_step)
    readers = [reader, sampler.full_reader(first_step)] if sampler.everything else [reader]
    for each in readers:
        each.snapshot(first_step, before=True)  # which makes the buckets that later ones use again
    begun = time.perf_counter()
    for step in range(first_step, first_step + RHYTHM):
        for before in (True, False):
            for each in readers:
                each.snapshot(step, before=before)
    seconds = (time.perf_counter() - begun) / RHYTHM
    elements = sum(columns.count for columns in readers[-1].sample.columns.values())
    sampled, full, every = sampler.nbytes_of_a_step(reader.sample)
    return Estimate(
        elements=elements,
        disk_bytes=(sampled if every > 1 else 0) // 2 + full // every,  # what a step found is what the one before left
        memory_bytes=min(TURN_STEPS * sampled, PART_BYTES) + full,
        seconds=seconds,
    )
