"""What recording will cost, before the first step."""

import time
from dataclasses import dataclass

from crosscheck.recorder.digests import RHYTHM
from crosscheck.recorder.pending import PART_BYTES, PART_STEPS
from crosscheck.recorder.selection import Selection


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
    """Time that looking at a step takes, as it was measured when the recorder was attached."""

    def __str__(self) -> str:
        return (
            f"{self.elements:,} elements, about {self.disk_bytes / 1024:.0f} KiB on disk and {1000 * self.seconds:.2f} ms a step, "
            f"up to {self.memory_bytes / 2**20:.0f} MiB of memory"
        )


def estimate(selection: Selection, first_step: int) -> Estimate:
    """Look at the parameters as in some steps to come, and return what looking at every step will cost."""
    sample = selection.sampled(first_step)
    views = [sample, selection.full(first_step)] if selection.everything else [sample]
    for view in views:
        view.look(first_step, before=True)  # which makes what later looks use again
    begun = time.perf_counter()
    for step in range(first_step, first_step + RHYTHM):
        for before in (True, False):
            for view in views:
                view.look(step, before=before)
    seconds = (time.perf_counter() - begun) / RHYTHM
    elements = sum(columns.count for columns in views[-1].chosen.columns.values())
    sampled, full, every = selection.nbytes_of_a_step(sample)
    return Estimate(
        elements=elements,
        disk_bytes=(sampled if every > 1 else 0) // 2 + full // every,  # what a step found is what the one before left
        memory_bytes=min(PART_STEPS * sampled, PART_BYTES) + full,
        seconds=seconds,
    )
