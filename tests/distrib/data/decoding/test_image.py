"""One image as a person sees it: turned, on grey where it is transparent, in little memory."""

import io
import struct
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy
import pytest
from PIL import Image, ImageOps

from distrib.data.decoding.image import decode_image
from distrib.data.decoding.room import Room
from distrib.files import Unfit

SIDE = 2048


def decoded(content: bytes, size: int = 32) -> numpy.ndarray:
    return decode_image(partial(io.BytesIO, content), Room(2**26), size)[0]


def drawn() -> Image.Image:
    return Image.fromarray(numpy.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=numpy.uint8))


def saved(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    content = io.BytesIO()
    image.save(content, kind, **options)
    return content.getvalue()


def test_a_lack_of_memory_says_nothing_of_the_image(monkeypatch: pytest.MonkeyPatch) -> None:
    def lacks(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr(Image, "open", lacks)
    with pytest.raises(MemoryError):
        decoded(b"an image")


def test_an_error_without_a_message_is_told_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(Image, "open", fail)
    with pytest.raises(Unfit, match="ZeroDivisionError"):
        decoded(b"an image")


@pytest.mark.parametrize("orientation", range(10))
def test_a_photo_is_turned_as_by_pillow(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = saved(drawn(), exif=exif)
    seen = ImageOps.exif_transpose(Image.open(io.BytesIO(content)))
    assert (decoded(content) == decoded(saved(seen))).all()


def test_other_tags_do_not_matter() -> None:
    """YCbCrPositioning is a SHORT by its standard; here it is a LONG that no SHORT holds, and Pillow could not write it again."""
    tags = struct.pack("<HHII", 0x0112, 3, 1, 6) + struct.pack("<HHII", 0x0213, 4, 1, 2**16)
    exif = b"Exif\0\0II*\0" + struct.pack("<IH", 8, 2) + tags + bytes(4)
    turned, stored = (decoded(saved(drawn(), "JPEG", **more)) for more in ({"exif": exif}, {}))
    assert not (turned == stored).all()


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_what_is_transparent_is_grey(mode: str) -> None:
    image = drawn().convert(mode)
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    seen = Image.alpha_composite(Image.new("RGBA", image.size, "#808080"), image.convert("RGBA"))
    assert (decoded(saved(image)) == decoded(saved(seen.convert("RGB")))).all()


@pytest.mark.parametrize("most", [1023, 65535])
def test_grey_of_more_than_eight_bits_in_a_pgm(most: int) -> None:
    pixels = numpy.linspace(0, most, 32 * 32).astype(">u2")
    seen = decoded(b"P5 32 32 %d\n" % most + pixels.tobytes())
    assert abs(seen[..., 0].flatten() - numpy.linspace(0, 255, 32 * 32)).max() < 2


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "P", "L", "I;16"])
def test_two_copies_of_an_image_are_in_memory_at_most(mode: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    image = Image.new(mode, (SIDE, SIDE), 30000 if mode == "I;16" else None if mode == "P" else "white")
    more: dict[str, Any] = {"transparency": 0} if mode == "P" else {}
    content = saved(image, compress_level=1, exif=exif, **more)
    image.close()
    before, most = peak_of(lambda: decoded(content))
    assert most - before < 2.5 * 4 * SIDE**2


def peak_of(work: Callable[[], object]) -> tuple[int, int]:
    """Return the memory of this process before `work`, and the most that it has meanwhile, in bytes."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # forgets the peak of before
    before = _status("VmRSS")
    work()
    return before, _status("VmHWM")


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))
