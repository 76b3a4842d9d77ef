"""From `data.source` to images: the one place that knows every source."""

from dataclasses import replace

from distrib.data import cifar10, folder, synthetic
from distrib.data.config import DataConfig
from distrib.data.images import SIZE, Dataset
from distrib.display import count
from distrib.errors import BadInput
from distrib.files import expand_path
from distrib.system import memory


def choose(config: DataConfig) -> tuple[str, str]:
    """Return what `auto` means here, and a line that says why. May try a download: call it on one rank only."""
    if config.source != "auto":
        return config.source, ""
    if cifar10.on_disk(config.cache):
        return "cifar10", f"data: CIFAR-10, found in {config.cache}"
    if config.download and cifar10.fetch_quickly(config.cache):
        return "cifar10", f"data: CIFAR-10, downloaded into {config.cache}"
    return "synthetic", (
        f"data: synthetic images (drawn shapes), because CIFAR-10 is not in {config.cache} and could not be "
        "downloaded quickly; give --data.source folder:PATH or cifar10 for real ones"
    )


def load(config: DataConfig, source: str) -> Dataset:
    """Return the images of `source` (a value that `choose` returned), cut to the sizes asked for."""
    if source == "synthetic":
        counts = config.train_images or 50_000, config.test_images or 10_000
        _expect_room(*counts)
        dataset = synthetic.load(*counts)
    elif source == "cifar10":
        dataset = cifar10.load(config.cache, download=config.download)
    else:
        dataset = folder.load(
            expand_path(source.removeprefix("folder:"), "data.source = folder:PATH, where PATH"), config.cache
        )
    train, test = dataset.train.evenly(config.train_images), dataset.test.evenly(config.test_images)
    dataset = replace(dataset, train=train, test=test)
    for name, split in (("train", train), ("test", test)):
        if len(split) < len(dataset.classes):
            raise BadInput(
                f"data.{name}_images leaves {count(len(split), 'image')} for {len(dataset.classes)} classes: "
                "use at least one image a class"
            )
    return dataset


def _expect_room(train: int, test: int) -> None:
    """Raise BadInput if so many drawn images do not fit into half of this machine's memory. Files bring their own limit."""
    needed = (train + test) * SIZE * SIZE * 3
    if needed > memory() // 2:
        raise BadInput(
            f"data.train_images = {train} and data.test_images = {test} synthetic images take {needed / 1e9:.0f} GB, more than "
            f"half of the {memory() / 1e9:.0f} GB of memory here: choose fewer"
        )
