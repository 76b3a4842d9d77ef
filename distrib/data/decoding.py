"""From image files to pixels, within limits of kind, size and memory.

A file's name says nothing about what is in it: Pillow would take PostScript that is called photo.jpg to an interpreter that
runs it. So only the decoders of the accepted formats see a file, and no more pixels are decoded at a time than memory has
room for.
"""

import os
import threading
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from distrib.data.images import SIZE, Sizes
from distrib.errors import BadInput
from distrib.files import DISK_BROKEN, Unfit, open_regular

LARGEST_FILE = 2**28
"""Bytes of an image file."""
MOST_PIXELS = 2**26
"""Pixels of an image, and of all images that are decoded at a time: half a gigabyte of memory."""
_TOLD = 20  # images that are named, if many do not decode
_FORMATS = ("JPEG", "PNG", "PPM", "BMP", "TIFF", "WEBP")  # of torchvision's IMG_EXTENSIONS


def decode(files: Sequence[Path]) -> tuple[Tensor, Sizes]:
    """Return the images, resized to SIZE, as (N, H, W, C) uint8, and which sizes they had. There must be one at least.

    Raises BadInput that names all that do not decode, and OSError.
    """
    images = numpy.empty((len(files), SIZE, SIZE, 3), dtype=numpy.uint8)
    sizes: set[tuple[int, int]] = set()
    room = Room(MOST_PIXELS)

    def work(position: int) -> str:
        try:
            images[position], size = _decode(files[position], room)
            sizes.add(size)
        except Unfit as error:
            return f"image {files[position]} cannot be decoded ({error})"
        return ""

    with ThreadPoolExecutor(os.cpu_count()) as pool:  # PIL decodes outside the interpreter lock
        problems = list(filter(None, pool.map(work, range(len(files)))))
    if len(problems) == 1:
        raise BadInput(f"{problems[0]}: repair it, or take it out of the folder")
    if problems:
        more = f"; and {len(problems) - _TOLD} more" if len(problems) > _TOLD else ""
        raise BadInput(
            f"{len(problems)} images cannot be decoded: {'; '.join(problems[:_TOLD])}{more}: repair them, or take them out of the folder"
        )
    by_area = sorted(sizes, key=lambda size: (size[0] * size[1], size))
    return torch.from_numpy(images), Sizes(by_area[0], by_area[-1])


def _decode(path: Path, room: "Room") -> tuple[numpy.ndarray, tuple[int, int]]:
    """Return the image's pixels, and the width and height of its file. Raises Unfit, in the words of what is wrong with it, and OSError for a disk that breaks."""
    try:
        with open_regular(path, LARGEST_FILE) as file, Image.open(file, formats=_FORMATS) as image:
            size = image.width * image.height
            if size > MOST_PIXELS:
                raise Unfit(f"it has {size} pixels, and at most {MOST_PIXELS} are decoded")
            with room.for_pixels(size):
                pixels = _eight_bit(image).convert("RGB")
                if pixels.size != (SIZE, SIZE):
                    pixels = pixels.resize((SIZE, SIZE), Image.Resampling.BILINEAR)
                return numpy.asarray(pixels), image.size
    except Exception as error:  # PIL raises whatever its decoders raise; all of it means this file
        if isinstance(error, OSError) and error.errno in DISK_BROKEN:
            raise
        why = (isinstance(error, OSError) and error.strerror) or str(error)
        if isinstance(error, UnidentifiedImageError):  # its message names the open file, not the path
            why = f"it is none of {', '.join(_FORMATS)}"
        raise Unfit(why) from None


def _eight_bit(image: Image.Image) -> Image.Image:
    """Return the image with sixteen-bit grey scaled down to eight; Pillow's own conversion would clip it to white."""
    if not image.mode.startswith("I"):
        return image
    grey = numpy.array(image, dtype=numpy.float32)
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
