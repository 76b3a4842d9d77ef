"""Says which images belong to the global batch of a step, and which of them are each rank's share, as pure functions of the step.

No sampler, no worker, no state: a run that resumes at step s asks for step s + 1 and gets the same
images, and the global batch does not depend on how many ranks divide it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from distrib import counter_rng
from distrib.errors import BadInput
from distrib.text import count

_ORDER = 0  # stream; see augment.py for the others
_order = lru_cache(maxsize=2)(counter_rng.permutation)  # of this epoch and the next


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """Which images belong to which step, part and rank. Steps count from 1, epochs from 1."""

    num_images: int
    batch_size: int  # global
    last_batch: Literal["drop", "mask"]
    accumulate: int
    seed: int
    rank: int
    world_size: int
    fillers: bool = True
    """Whether each part has as many images as the largest one. Without fillers, which weigh nothing,
    it has its own images only."""

    def __post_init__(self) -> None:
        if self.batch_size > self.num_images:
            raise BadInput(
                f"training.batch_size = {self.batch_size} is more than the {count(self.num_images, 'training image')}: "
                "choose a smaller batch"
            )
        if self.batch_size // self.accumulate < self.world_size:
            raise BadInput(
                f"training.batch_size = {self.batch_size} in {count(self.accumulate, 'part')} leaves some of "
                f"{self.world_size} ranks without an image: raise the batch size, or use fewer ranks or parts"
            )

    @property
    def steps_per_epoch(self) -> int:
        full, rest = divmod(self.num_images, self.batch_size)
        return full + (1 if rest and self.last_batch == "mask" else 0)

    def steps(self, epochs: int) -> int:
        return epochs * self.steps_per_epoch

    def images(self, steps: int) -> int:
        """Return how many images the first `steps` steps take in all; those of every epoch count again."""
        epochs, rest = divmod(steps, self.steps_per_epoch)
        return epochs * min(self.steps_per_epoch * self.batch_size, self.num_images) + rest * self.batch_size

    def images_of(self, step: int) -> int:
        """Return how many images `step` takes; they are fewer in a masked last batch."""
        return self.images(step) - self.images(step - 1)

    @property
    def share(self) -> int:
        """The images per rank and part, the same number at every step if `fillers` stand where there are fewer."""
        part = self.batch_size // self.accumulate
        return -(-part // self.world_size)

    def fewest(self, batch: int) -> int:
        """Return how many images of its own a rank has at least in a part of a batch of so many."""
        return batch // self.accumulate // self.world_size

    def epoch_of(self, step: int) -> int:
        return (step - 1) // self.steps_per_epoch + 1

    def global_batch(self, step: int, device: torch.device) -> Tensor:
        """Return the indices of the images of `step`, (B,) int64; B is smaller in a masked last batch."""
        order = _order(counter_rng.key(self.seed, self.epoch_of(step), _ORDER), self.num_images, device)
        first = (step - 1) % self.steps_per_epoch * self.batch_size
        return order[first : first + self.batch_size]

    def shares(self, step: int, device: torch.device, *, following: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield for each part this rank's indices (N + following,) int64 and weights (N,) float32; with fillers N is `share`.

        A weight is 1/B for an image of the global batch and 0 for a filler, so that the weighted sums
        of all ranks and parts are the mean over the global batch whatever divides what. Behind the rank's own images stand as
        many as `following` says of those that follow them in the global batch, whose last image the first one follows.
        """
        batch = self.global_batch(step, device)
        around = torch.cat((batch, batch[:following]))
        for part in _split(range(len(batch)), self.accumulate):
            mine = _split(part, self.world_size)[self.rank]
            share = self.share if self.fillers else len(mine)
            weights = torch.zeros(share, device=device)
            weights[: len(mine)] = 1.0 / len(batch)
            filler = batch[:1].expand(share - len(mine))
            yield torch.cat((around[mine.start : mine.stop + following], filler)), weights

    def in_order(self, gathered: Tensor, size: int) -> Tensor:
        """Bring (ranks, parts, share, …), as ranks hold it with fillers, into the order of the global batch: (size, …),
        without fillers.
        """
        pieces = [
            gathered[rank, number, : len(mine)]
            for number, part in enumerate(_split(range(size), self.accumulate))
            for rank, mine in enumerate(_split(part, self.world_size))
        ]
        return torch.cat(pieces)


def _split(positions: range, parts: int) -> list[range]:
    """Cut positions of a batch into consecutive pieces whose lengths differ by at most one."""
    bounds = [len(positions) * i // parts for i in range(parts + 1)]
    return [positions[a:b] for a, b in pairwise(bounds)]
