"""Decoding: small images in one thread and large ones in several give the same pixels, and small ones are not slowed down."""

import time
from collections.abc import Callable
from pathlib import Path

import numpy
import pytest
from PIL import Image

from distrib.data.decoding import decoder
from distrib.data.decoding.decoder import decode
from distrib.errors import BadInput


def draw(folder: Path, widths: list[int]) -> list[Path]:
    """Write an image of each width, each of a grey of its own."""
    files = [folder / f"{number:04}.jpg" for number in range(len(widths))]
    for number, (file, width) in enumerate(zip(files, widths, strict=True)):
        Image.new("RGB", (width, width), (number % 256,) * 3).save(file, quality=95)
    return files


def seconds_of(work: Callable[[], object]) -> float:
    """Return the processor time of the fastest of three runs."""
    found: list[float] = []
    for _ in range(3):
        began = time.process_time()
        work()
        found.append(time.process_time() - began)
    return min(found)


@pytest.mark.parametrize("widths", [[32] * 6, [32, 32, 300, 32, 300, 32], [300] * 6], ids=["small", "mixed", "large"])
def test_each_image_is_in_its_place_whatever_their_sizes(widths: list[int], tmp_path: Path) -> None:
    images, sizes = decode(draw(tmp_path, widths))
    assert [int(image.float().mean().round()) for image in images] == list(range(6))
    assert tuple(sizes) == ((min(widths),) * 2, (max(widths),) * 2)


def test_what_does_not_decode_is_named_before_and_behind_a_large_image(tmp_path: Path) -> None:
    files = draw(tmp_path, [32, 32, 300, 32, 32])
    for bad in (files[0], files[4]):
        bad.write_bytes(b"no image")
    with pytest.raises(BadInput) as refused:
        decode(files)
    assert "2 images cannot be used" in str(refused.value)
    assert all(str(file) in str(refused.value) for file in (files[0], files[4]))


def test_small_images_cost_hardly_more_than_pillow_alone(tmp_path: Path) -> None:
    """In two threads they took three times as long, because each waited for the other's interpreter lock."""
    files = draw(tmp_path, [32] * 600)

    def pillow() -> None:
        for file in files:
            with Image.open(file) as image:
                numpy.asarray(image.convert("RGB"))

    assert seconds_of(lambda: decode(files)) < 2 * seconds_of(pillow)


@pytest.mark.parametrize("width", [20, 200])
def test_arrays_are_resized_alike_in_one_thread_and_in_several(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    images = numpy.random.default_rng(0).integers(0, 256, (5, width, width, 3), dtype=numpy.uint8)
    alone = decoder.resized(images, 32)
    monkeypatch.setattr(decoder, "_IN_TURN", 0)
    assert (decoder.resized(images, 32) == alone).all()
    assert alone.shape == (5, 32, 32, 3)
