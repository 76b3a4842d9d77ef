"""Decodes or resizes many images, in one thread or in several, into one array."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from distrib.data.decoding.image import LARGEST_FILE, MOST_PIXELS, Open, decode_image, fit
from distrib.data.decoding.room import Room
from distrib.data.images import SIZE, Sizes
from distrib.errors import BadInput
from distrib.files import Unfit, open_regular

_TOLD = 20  # images that are named, if many do not decode
_IN_TURN = 2**14
"""Pixels up to which one thread decodes faster than two: of a small image nearly all work is Python's own, and what Pillow does
outside the interpreter lock is so short that threads only wait for each other. Two cores, JPEG: 9,600 instead of 4,500 images of
32 x 32 a second, 4,500 instead of 3,600 of 128 x 128, 2,700 instead of 3,200 of 160 x 160."""


def decode(
    files: Sequence[Path], problems: Sequence[str] = (), size: int = SIZE, *, place: str = "the folder"
) -> tuple[Tensor, Sizes]:
    """Return the images, resized to size x size, as (N, H, W, C) uint8, and which sizes they had. There must be one at least.

    Raises BadInput that names those that do not decode, twenty at most, after `problems` that are known already, and `place`,
    where they are to be taken out; and OSError.
    """
    decoder = Decoder(len(files), size)
    decoder.problems += problems
    decoder.add([(f"image {file}", partial(open_regular, file, LARGEST_FILE)) for file in files])
    return decoder.finish(place)


class Decoder:
    """Decodes images, as they come, into one array of size x size pixels each, and gathers what is wrong with any of them."""

    def __init__(self, count: int, size: int) -> None:
        self.problems: list[str] = []
        """Sentences that name an image and say what is wrong with it."""
        self._images = numpy.empty((count, size, size, 3), dtype=numpy.uint8)
        self._done, self._size = 0, size
        self._sizes: set[tuple[int, int]] = set()
        self._room = Room(MOST_PIXELS)

    def add(self, images: Sequence[tuple[str, Open]]) -> None:
        """Decode the next images, each of which has a name for messages and is opened when its turn comes. Raises OSError."""
        first, largest = self._done, 0

        def work(number: int) -> str:
            nonlocal largest
            name, opened = images[number]
            try:
                self._images[first + number], seen = decode_image(opened, self._room, self._size)
                self._sizes.add(seen)
                largest = max(largest, seen[0] * seen[1])
            except Unfit as error:
                return f"{name} cannot be decoded ({error})"
            return ""

        numbers = iter(range(len(images)))
        for number in numbers:
            self.problems += filter(None, [work(number)])
            if largest > _IN_TURN:
                break
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            self.problems += filter(None, pool.map(work, numbers))
        self._done += len(images)

    def finish(self, place: str) -> tuple[Tensor, Sizes]:
        """Return all images and which sizes they had. Raises BadInput that names those that are to be taken out of `place`."""
        _refuse(self.problems, place)
        return torch.from_numpy(self._images), Sizes.of(self._sizes)


def _refuse(problems: Sequence[str], place: str) -> None:
    if len(problems) == 1:
        raise BadInput(f"{problems[0]}: repair it, or take it out of {place}")
    if problems:
        more = f"; and {len(problems) - _TOLD} more" if len(problems) > _TOLD else ""
        raise BadInput(
            f"{len(problems)} images cannot be used: {'; '.join(problems[:_TOLD])}{more}: repair them, or take them out of "
            f"{place}"
        )


def resized(images: NDArray[numpy.uint8], size: int) -> NDArray[numpy.uint8]:
    """Return images that are (N, H, W, 3) or, grey, (N, H, W) as (N, size, size, 3)."""
    pixels = numpy.empty((len(images), size, size, 3), dtype=numpy.uint8)

    def work(number: int) -> None:
        pixels[number] = numpy.asarray(fit(Image.fromarray(images[number]), size).convert("RGB"))

    if images.shape[1] * images.shape[2] <= _IN_TURN:
        for number in range(len(images)):
            work(number)
        return pixels
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(work, range(len(images))))
    return pixels
