"""Tests images of other sizes than 32 x 32, `data.image_size`, from every source."""

from pathlib import Path

import numpy
import pytest
import torch
from PIL import Image

from distrib.data import selection
from distrib.data.config import DataConfig
from distrib.data.images import Dataset
from distrib.data.selection import Selection
from distrib.data.sources import folder, sources, synthetic
from distrib.data.sources.arrays import arrays
from distrib.errors import BadInput


@pytest.fixture
def birds(tmp_path: Path) -> Path:
    """The same noise of 40 x 20 pixels as a folder of files and as arrays."""
    draw = numpy.random.default_rng(0)
    content: dict[str, numpy.ndarray] = {}
    for split in ("train", "test"):
        content[f"{split}_images"] = draw.integers(0, 256, (6, 40, 20, 3), dtype=numpy.uint8)
        content[f"{split}_labels"] = numpy.arange(6) // 3
        for number, image in enumerate(content[f"{split}_images"]):
            file = tmp_path / "birds" / split / str(number // 3) / f"{number}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(file)
    numpy.savez(tmp_path / "birds.npz", allow_pickle=False, **content)
    return tmp_path / "birds"


def caches(birds: Path) -> set[str]:
    return {file.name for file in (birds.parent / "cache").glob("*.safetensors")}


@pytest.mark.parametrize("source", ["folder", "npz"])
def test_files_are_resized_to_what_is_asked_for(birds: Path, source: str) -> None:
    def load(size: int) -> Dataset:
        choice = Selection(image_size=size)
        if source == "npz":
            return arrays.load(birds.with_suffix(".npz"), birds.parent / "cache", choice)
        return folder.load(birds, birds.parent / "cache", choice)

    for size in (8, 32, 57):
        data = load(size)
        image = Image.open(birds / "train" / "0" / "1.png").resize((size, size), Image.Resampling.BILINEAR)
        assert data.train.images.shape == (6, size, size, 3)
        assert numpy.array_equal(data.train.images[1].numpy(), numpy.asarray(image))
        assert data.notes == (f"images of 20 x 40 pixels are resized to {size} x {size}",)
        before = caches(birds)
        assert torch.equal(load(size).test.images, data.test.images), "the second time from the cache"
        assert caches(birds) == before
    assert len(caches(birds)) == 3, "each size has a cache of its own"


def test_a_cache_of_another_size_is_not_taken(birds: Path) -> None:
    folder.load(birds, birds.parent / "cache", Selection(image_size=16))
    (small,) = caches(birds)
    folder.load(birds, birds.parent / "cache", Selection(image_size=24))
    (large,) = caches(birds) - {small}
    (birds.parent / "cache" / small).replace(birds.parent / "cache" / large)
    assert folder.load(birds, birds.parent / "cache", Selection(image_size=24)).train.images.shape[1:3] == (24, 24)


def test_what_is_drawn_is_the_same_at_every_size() -> None:
    small, large = (synthetic.load(200, 20, size=size).train.images.float().mean(dim=-1) for size in (16, 64))
    shrunk = torch.nn.functional.avg_pool2d(large[:, None], 4)[:, 0]
    together = torch.stack((small.flatten(1), shrunk.flatten(1))).sub_(127.5)
    likeness = torch.cosine_similarity(together[0], together[1])
    assert likeness.median() > 0.75  # each has noise of its own
    assert torch.cosine_similarity(together[0], together[1].roll(10, 0)).median() < 0.5, "of another image of the class"


def test_memory_is_reckoned_in_that_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selection, "memory", lambda: 2 * 100 * 64 * 64 * 3)
    asked = DataConfig(source="synthetic", image_size=64, train_images=81, test_images=20)
    with pytest.raises(BadInput, match=r"at most 100 together, or a smaller data\.image_size than 64"):
        sources.load(asked, "synthetic")
    fits = asked.model_copy(update={"train_images": 80})
    assert sources.load(fits, "synthetic").train.images.shape == (80, 64, 64, 3)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"image_size": 7}, "greater than or equal to 8"),
        ({"image_size": 513}, "less than or equal to 512"),
        ({"image_size": 8, "shift": 8}, r"data\.shift = 8 is too much for data\.image_size = 8: choose at most 7"),
        ({"cutout": 33}, r"data\.cutout = 33 is too much for data\.image_size = 32: choose at most 32"),
    ],
)
def test_sizes_that_are_refused(values: dict[str, int], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        DataConfig.model_validate(values)
