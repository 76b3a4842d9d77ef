"""Decodes one image, within limits of kind, size and memory.

A file's name says nothing about what is in it: Pillow would take PostScript that is called photo.jpg to an interpreter that
runs it. So only the decoders of the accepted formats see a file, and no more pixels are decoded at a time than memory has
room for.
"""

from collections.abc import Callable
from typing import BinaryIO

import numpy
from PIL import Image, UnidentifiedImageError

from distrib.data.decoding.room import Room
from distrib.files import DISK_BROKEN, Unfit

LARGEST_FILE = 2**28
"""Bytes of an image file."""
MOST_PIXELS = 2**26
"""Pixels of an image, and of all images that are decoded at a time: half a gigabyte of memory, twice four bytes for each."""
_FORMATS = ("JPEG", "PNG", "PPM", "BMP", "TIFF", "WEBP")  # of torchvision's IMG_EXTENSIONS
_GROUND = "#808080"  # behind what is transparent: neither a black shape disappears on it nor a white one
_ORIENTATION = 0x0112  # the tag of Exif that says how the camera was held
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_TWELVE_BITS = 2**12  # what scanners and microscopes store in sixteen

Open = Callable[[], BinaryIO]


def decode_image(opened: Open, room: Room, size: int) -> tuple[numpy.ndarray, tuple[int, int]]:
    """Return the image in size x size pixels, and the width and height of its file.

    Raises Unfit, in the words of what is wrong with it, OSError for a disk that breaks, and MemoryError.
    """
    try:
        with opened() as file, Image.open(file, formats=_FORMATS) as image:
            pixels = image.width * image.height
            if pixels > MOST_PIXELS:
                raise Unfit(f"it has {pixels} pixels, and at most {MOST_PIXELS} are decoded")
            with room.for_pixels(pixels):
                seen = _as_seen(image)
                return numpy.asarray(fit(seen, size)), seen.size
    except MemoryError:  # the machine lacks memory, and nothing is known of the image
        raise
    except Exception as error:  # PIL raises whatever its decoders raise; all of it means this file
        if isinstance(error, OSError) and error.errno in DISK_BROKEN:
            raise
        why = (isinstance(error, OSError) and error.strerror) or str(error) or type(error).__name__
        if isinstance(error, UnidentifiedImageError):  # its message names the open file, not the path
            why = f"it is none of {', '.join(_FORMATS)}"
        raise Unfit(why) from error


def fit(image: Image.Image, size: int) -> Image.Image:
    """Return the image in size x size pixels, squeezed, not cropped."""
    return image if image.size == (size, size) else image.resize((size, size), Image.Resampling.BILINEAR)


def _as_seen(image: Image.Image) -> Image.Image:
    """Return the image in RGB as a person sees it: turned as the camera says, on grey where it is transparent.

    Each step frees what it was given, so that two copies of an image are in memory at most.
    Raises Unfit where nothing says which numbers are black and white.
    """
    image.load()
    # ImageOps.exif_transpose would write all other tags again, and it raises at some that are harmless.
    turn = _TURNS.get(image.getexif().get(_ORIENTATION, 1))
    if turn is not None:
        image = _replaced(image, image.transpose(turn))
    if image.mode == "I" and image.format == "PPM":  # of more than eight bits, which Pillow scales to sixteen
        image = _in_mode("I;16", image)
    if image.mode in ("F", "I"):
        kind = "floating-point numbers" if image.mode == "F" else "32-bit numbers"
        raise Unfit(f"its pixels are {kind}, and nothing says which of them is white: save it with 8 bits a channel")
    if image.mode.startswith("I;16"):
        return _eight_bit(image).convert("RGB")
    if image.has_transparency_data:
        image = _in_mode("RGBA", image)
        ground = Image.new("RGB", image.size, _GROUND)
        ground.paste(image, mask=image)
        return _replaced(image, ground)
    return _in_mode("RGB", image)


def _in_mode(mode: str, image: Image.Image) -> Image.Image:
    return image if image.mode == mode else _replaced(image, image.convert(mode))


def _replaced(image: Image.Image, by: Image.Image) -> Image.Image:
    """Return the second image, and free the memory of the first one."""
    image.close()
    return by


def _eight_bit(image: Image.Image) -> Image.Image:
    """Return sixteen-bit grey scaled down to eight bits; Pillow's own conversion would clip it to white. Raises Unfit."""
    grey = numpy.asarray(image)
    if 0 < grey.max() < _TWELVE_BITS:
        raise Unfit(
            f"its pixels have 16 bits, and none is above {int(grey.max())}: 12 bits in 16, or nearly black; save it with "
            "8 bits a channel"
        )
    return Image.fromarray((grey // 257).astype(numpy.uint8))
