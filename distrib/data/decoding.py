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
    refuse_images(problems)
    by_area = sorted(sizes, key=lambda size: (size[0] * size[1], size))
    return torch.from_numpy(images), Sizes(by_area[0], by_area[-1])


def refuse_images(problems: Sequence[str]) -> None:
    """Raise BadInput if there are problems, each of which names an image and says what is wrong with it."""
    if len(problems) == 1:
        raise BadInput(f"{problems[0]}: repair it, or take it out of the folder")
    if problems:
        more = f"; and {len(problems) - _TOLD} more" if len(problems) > _TOLD else ""
        raise BadInput(
            f"{len(problems)} images cannot be used: {'; '.join(problems[:_TOLD])}{more}: repair them, or take them out of the folder"
        )


def _decode(path: Path, room: "Room") -> tuple[numpy.ndarray, tuple[int, int]]:
    """Return the image's pixels, and the width and height of its file. Raises Unfit, in the words of what is wrong with it, and OSError for a disk that breaks."""
    try:
        with open_regular(path, LARGEST_FILE) as file, Image.open(file, formats=_FORMATS) as image:
            size = image.width * image.height
            if size > MOST_PIXELS:
                raise Unfit(f"it has {size} pixels, and at most {MOST_PIXELS} are decoded")
            with room.for_pixels(size):
                pixels = _as_seen(image)
                shown = pixels.size
                if shown != (SIZE, SIZE):
                    pixels = pixels.resize((SIZE, SIZE), Image.Resampling.BILINEAR)
                return numpy.asarray(pixels), shown
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
