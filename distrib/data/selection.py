"""Says which images of a set a run takes, and in what size, before any of them is in memory."""

import os
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from distrib.data.images import SIZE, evenly_spaced
from distrib.errors import BadInput
from distrib.system import memory
from distrib.text import count


@dataclass(frozen=True, slots=True)
class Selection:
    """How many images of each split a run takes, spread evenly over it; None takes all."""

    train: int | None = None
    test: int | None = None
    image_size: int = SIZE
    """Pixels, height and width, to which images are resized."""

    def of(self, source: str, totals: Mapping[str, int]) -> dict[str, Tensor]:
        """Return the positions that are taken of each split; `totals` says how many images "train" and "test" have.

        Raises BadInput if these images do not fit into half of the memory here, once for each process of this machine.
        """
        limits = {"train": self.train, "test": self.test}
        chosen = {split: evenly_spaced(limits[split], total) for split, total in totals.items()}
        processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # each has all images
        images, room, each_takes = sum(map(len, chosen.values())), memory() // 2, self.image_size**2 * 3
        if images * each_takes * processes > room:
            each = f" in each of {processes} processes" if processes > 1 else ""
            raise BadInput(
                f"data.source = {source}: {count(len(chosen['train']), 'training image')} and "
                f"{count(len(chosen['test']), 'test image')} take {_gigabytes(images * each_takes)}{each}, more than half of the "
                f"{_gigabytes(2 * room)} of memory here: take fewer with data.train_images and data.test_images, at most "
                f"{room // processes // each_takes} together"
                + (f", or a smaller data.image_size than {self.image_size}" if self.image_size > SIZE else "")
            )
        return chosen


ALL = Selection()


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.3g} GB"
