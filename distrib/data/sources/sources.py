"""Loads the images that `data.source` names; it is the one place that knows every source."""

from dataclasses import replace

import torch

from distrib.data.config import DataConfig
from distrib.data.decoding.decoder import resized
from distrib.data.images import SIZE, Dataset, Sizes, Split
from distrib.data.selection import Selection
from distrib.data.sources import cifar10, folder, synthetic
from distrib.data.sources.arrays import arrays
from distrib.data.sources.parquet import hub, parquet
from distrib.data.sources.parquet.columns import WantedColumns
from distrib.errors import BadInput
from distrib.files import expand_path
from distrib.text import count


def choose(config: DataConfig) -> tuple[str, str]:
    """Return what `auto` means here, and a line that says why. May try a download: call it on one rank only."""
    if config.source != "auto":
        return config.source, ""
    if cifar10.on_disk(config.cache):
        return "cifar10", f"data: CIFAR-10, found in {config.cache}"
    if config.download and cifar10.fetch_quickly(config.cache):
        return "cifar10", f"data: CIFAR-10, downloaded into {config.cache}"
    why = "could not be downloaded quickly" if config.download else "data.download = false"
    return "synthetic", (
        f"data: synthetic images (drawn shapes), because CIFAR-10 is not in {config.cache} and {why}; "
        "give --data.source folder:PATH or cifar10 for real ones"
    )


def load(config: DataConfig, source: str) -> Dataset:
    """Return the images of `source` (a value that `choose` returned), cut to the sizes asked for."""
    if not source.startswith(("parquet:", "hf:")):
        _expect_no_columns(config, source)
    if source == "synthetic":
        counts = {"train": config.train_images or 50_000, "test": config.test_images or 10_000}
        Selection(image_size=config.image_size).of(source, counts)
        dataset = synthetic.load(*counts.values(), size=config.image_size)
    elif source == "cifar10":
        dataset = cifar10.load(config.cache, download=config.download)
    else:
        dataset = _load_files(config, *source.split(":", 1))
    dataset = replace(
        dataset, train=dataset.train.evenly(config.train_images), test=dataset.test.evenly(config.test_images)
    )
    if len(dataset.train) < len(dataset.classes):
        left = f"{count(len(dataset.train), 'image')} to train {len(dataset.classes)} classes: use at least one image a class"
        if config.train_images is None:
            raise BadInput(f"data.source = {source} has {left}")
        raise BadInput(f"data.train_images = {config.train_images} leaves {left}")
    return _resized(dataset, source, config.image_size) if source == "cifar10" else dataset


def _resized(dataset: Dataset, source: str, size: int) -> Dataset:
    """Return CIFAR-10, whose images are SIZE x SIZE, in size x size pixels. Raises BadInput if memory does not hold them."""
    if size == SIZE:
        return dataset
    Selection(image_size=size).of(source, {"train": len(dataset.train), "test": len(dataset.test)})
    train, test = (
        Split(torch.from_numpy(resized(split.images.numpy(), size)), split.labels)
        for split in (dataset.train, dataset.test)
    )
    return replace(dataset, train=train, test=test, notes=Sizes((SIZE, SIZE), (SIZE, SIZE)).notes(size))


def _expect_no_columns(config: DataConfig, source: str) -> None:
    """Raise BadInput if a column is named, which has no effect on this source."""
    for key, value in (("image_column", config.image_column), ("label_column", config.label_column)):
        if value is not None:
            raise BadInput(
                f"data.{key} = {value}: only parquet:PATH and hf:OWNER/NAME have columns, and data.source is {source}: leave it "
                "out"
            )


def _load_files(config: DataConfig, kind: str, place: str) -> Dataset:
    """Return the images of KIND:PLACE, of which only those that are asked for were decoded."""
    selection = Selection(config.train_images, config.test_images, config.image_size)
    columns = WantedColumns(config.image_column, config.label_column)
    if kind == "hf":
        return hub.load(place, config.cache, selection, columns, download=config.download)
    path = expand_path(place, f"data.source = {kind}:PATH, where PATH")
    if kind == "parquet":
        return parquet.load(path, config.cache, selection, columns)
    return (arrays if kind == "npz" else folder).load(path, config.cache, selection)
