"""How fast N GPUs would be: a model of the all-reduce of data-parallel training, with its assumptions.

Every rank keeps its batch, so that the global batch grows with their number. A step takes the step of one GPU and then a ring
all-reduce of the gradients, none of it hidden behind the backward pass, which makes it a pessimistic model:

    seconds(N) = step + 2 (N - 1) / N * bytes / bandwidth + collectives * latency(N)

Formula of the ring: Patarasuk and Yuan, "Bandwidth optimal all-reduce algorithms for clusters of workstations", 2009.
`collectives` counts the buckets of DistributedDataParallel and the trainer's own small sum of losses and flags.
"""

from dataclasses import dataclass

_BUCKET = 25 * 2**20  # bytes; torch's bucket_cap_mb, and
_FIRST_BUCKET = 2**20  # the first one's, so that the exchange begins early


@dataclass(frozen=True, slots=True)
class Link:
    """What connects the ranks. Both figures are assumptions."""

    name: str
    bandwidth: float
    """Bytes a second that the ring moves through each rank."""
    latency: float
    """Seconds that a collective takes for each step of its ring, however small it is."""


NVLINK = Link("NVLink within a node", 300e9, 5e-6)
ETHERNET = Link("100 Gb/s between nodes", 10e9, 20e-6)


@dataclass(frozen=True, slots=True)
class Workload:
    """A training on one GPU, as it was measured."""

    name: str
    step: float  # seconds
    bytes: int  # of gradients


def efficiency(work: Workload, link: Link, ranks: int) -> float:
    """Return the share of N times the speed of one GPU that N ranks reach, between 0 and 1."""
    if ranks == 1:
        return 1.0
    buckets = 1 + max(0, -(-(work.bytes - _FIRST_BUCKET) // _BUCKET))
    moved = 2 * (ranks - 1) / ranks * work.bytes / link.bandwidth
    waiting = (buckets + 1) * 2 * (ranks - 1) * link.latency
    return work.step / (work.step + moved + waiting)
