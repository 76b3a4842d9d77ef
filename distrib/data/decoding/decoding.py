"""From image files to pixels, within limits of kind, size and memory.

A file's name says nothing about what is in it: Pillow would take PostScript that is called photo.jpg to an interpreter that
runs it. So only the decoders of the accepted formats see a file, and no more pixels are decoded at a time than memory has
room for.
"""

import os
import threading
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import BinaryIO

import numpy
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from distrib.data.images import SIZE, Sizes
from distrib.errors import BadInput
from distrib.files import DISK_BROKEN, Unfit, open_regular

LARGEST_FILE = 2**28
"""Bytes of an image file."""
MOST_PIXELS = 2**26
"""Pixels of an image, and of all images that are decoded at a time: half a gigabyte of memory."""
_GROUND = "#808080"  # behind what is transparent: neither a black shape disappears on it nor a white one
_TWELVE_BITS = 2**12  # what scanners and microscopes store in sixteen
_TOLD = 20  # images that are named, if many do not decode
_IN_TURN = 2**14
"""Pixels up to which one thread decodes faster than two: of a small image nearly all work is Python's own, and what Pillow does
outside the interpreter lock is so short that threads only wait for each other. Two cores, JPEG: 9,600 instead of 4,500 images of
32 x 32 a second, 4,500 instead of 3,600 of 128 x 128, 2,700 instead of 3,200 of 160 x 160."""
_FORMATS = ("JPEG", "PNG", "PPM", "BMP", "TIFF", "WEBP")  # of torchvision's IMG_EXTENSIONS


Open = Callable[[], BinaryIO]


def decode(
    files: Sequence[Path], problems: Sequence[str] = (), size: int = SIZE, *, place: str = "the folder"
) -> tuple[Tensor, Sizes]:
    """Return the images, resized to size x size, as (N, H, W, C) uint8, and which sizes they had. There must be one at least.

    Raises BadInput that names all that do not decode, after `problems` that are known already, and `place`, where they are to be
    taken out; and OSError.
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
                self._images[first + number], seen = _decode(opened, self._room, self._size)
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
            f"{len(problems)} images cannot be used: {'; '.join(problems[:_TOLD])}{more}: repair them, or take them out of {place}"
        )


def resized(images: NDArray[numpy.uint8], size: int) -> NDArray[numpy.uint8]:
    """Return images that are (N, H, W, 3) or, grey, (N, H, W) as (N, size, size, 3)."""
    pixels = numpy.empty((len(images), size, size, 3), dtype=numpy.uint8)

    def work(number: int) -> None:
        pixels[number] = numpy.asarray(_fit(Image.fromarray(images[number]), size).convert("RGB"))

    if images.shape[1] * images.shape[2] <= _IN_TURN:
        for number in range(len(images)):
            work(number)
        return pixels
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(work, range(len(images))))
    return pixels


def _fit(image: Image.Image, size: int) -> Image.Image:
    """Return the image in size x size pixels, squeezed, not cropped."""
    return image if image.size == (size, size) else image.resize((size, size), Image.Resampling.BILINEAR)


def _decode(opened: Open, room: "Room", size: int) -> tuple[numpy.ndarray, tuple[int, int]]:
    """Return the image in size x size pixels, and the width and height of its file.

    Raises Unfit, in the words of what is wrong with it, and OSError for a disk that breaks.
    """
    try:
        with opened() as file, Image.open(file, formats=_FORMATS) as image:
            pixels = image.width * image.height
            if pixels > MOST_PIXELS:
                raise Unfit(f"it has {pixels} pixels, and at most {MOST_PIXELS} are decoded")
            with room.for_pixels(pixels):
                seen = _as_seen(image)
                return numpy.asarray(_fit(seen, size)), seen.size
    except Exception as error:  # PIL raises whatever its decoders raise; all of it means this file
        if isinstance(error, OSError) and error.errno in DISK_BROKEN:
            raise
        why = (isinstance(error, OSError) and error.strerror) or str(error)
        if isinstance(error, UnidentifiedImageError):  # its message names the open file, not the path
            why = f"it is none of {', '.join(_FORMATS)}"
        raise Unfit(why) from None


def _as_seen(image: Image.Image) -> Image.Image:
    """Return the image in RGB as a person sees it: turned as the camera says, on grey where it is transparent.

    Raises Unfit where nothing says which numbers are black and white.
    """
    image = ImageOps.exif_transpose(image)
    if image.mode in ("F", "I"):
        kind = "floating-point numbers" if image.mode == "F" else "32-bit numbers"
        raise Unfit(f"its pixels are {kind}, and nothing says which of them is white: save it with 8 bits a channel")
    if image.mode.startswith("I;16"):
        return _eight_bit(image).convert("RGB")
    if image.has_transparency_data:
        seen = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", seen.size, _GROUND), seen).convert("RGB")
    return image.convert("RGB")


def _eight_bit(image: Image.Image) -> Image.Image:
    """Return sixteen-bit grey scaled down to eight bits; Pillow's own conversion would clip it to white. Raises Unfit."""
    grey = numpy.array(image, dtype=numpy.float32)
    if 0 < grey.max() < _TWELVE_BITS:
        raise Unfit(
            f"its pixels have 16 bits, and none is above {int(grey.max())}: 12 bits in 16, or nearly black; save it with "
            "8 bits a channel"
        )
    grey /= 257.0
    return Image.fromarray(grey.clip(0, 255, out=grey).astype(numpy.uint8))


class Room:
    """The memory for decoded pixels that all threads share."""

    def __init__(self, pixels: int) -> None:
        self._left = pixels
        self._changed = threading.Condition()

    @contextmanager
    def for_pixels(self, pixels: int) -> Generator[None]:
        """Wait until there is room for so many pixels, which must not be more than there ever is, and take it."""
        with self._changed:
            self._changed.wait_for(lambda: self._left >= pixels)
            self._left -= pixels
        try:
            yield
        finally:
            with self._changed:
                self._left += pixels
                self._changed.notify_all()
