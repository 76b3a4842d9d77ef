"""Decodes one image, within limits of kind, size and memory.

A file's name says nothing about what is in it: Pillow would take PostScript that is called photo.jpg to an interpreter that
runs it. So only the decoders of the accepted formats see a file, and no more pixels are decoded at a time than memory has
room for.
"""

from collections.abc import Callable
from typing import BinaryIO

import numpy
from PIL import Image, ImageOps, UnidentifiedImageError

from distrib.data.decoding.room import Room
from distrib.files import DISK_BROKEN, Unfit

LARGEST_FILE = 2**28
"""Bytes of an image file."""
MOST_PIXELS = 2**26
"""Pixels of an image, and of all images that are decoded at a time: half a gigabyte of memory."""
_FORMATS = ("JPEG", "PNG", "PPM", "BMP", "TIFF", "WEBP")  # of torchvision's IMG_EXTENSIONS
_GROUND = "#808080"  # behind what is transparent: neither a black shape disappears on it nor a white one
_TWELVE_BITS = 2**12  # what scanners and microscopes store in sixteen

Open = Callable[[], BinaryIO]


def decode_image(opened: Open, room: Room, size: int) -> tuple[numpy.ndarray, tuple[int, int]]:
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
                return numpy.asarray(fit(seen, size)), seen.size
    except Exception as error:  # PIL raises whatever its decoders raise; all of it means this file
        if isinstance(error, OSError) and error.errno in DISK_BROKEN:
            raise
        why = (isinstance(error, OSError) and error.strerror) or str(error)
        if isinstance(error, UnidentifiedImageError):  # its message names the open file, not the path
            why = f"it is none of {', '.join(_FORMATS)}"
        raise Unfit(why) from None


def fit(image: Image.Image, size: int) -> Image.Image:
    """Return the image in size x size pixels, squeezed, not cropped."""
    return image if image.size == (size, size) else image.resize((size, size), Image.Resampling.BILINEAR)


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
