"""Which images a run trains on."""

import os
from pathlib import Path
from typing import Annotated

from pydantic import Field, field_validator

from distrib.config.section import Section
from distrib.files import expand_path

Images = Annotated[int, Field(ge=1, le=10**7)]
"""How many images. All of them are in memory, three kilobytes each."""
SOURCES = "auto, cifar10, synthetic, folder:PATH, npz:PATH, parquet:PATH or hf:OWNER/NAME"
_NAMED = ("folder:", "npz:", "parquet:", "hf:")


class DataConfig(Section):
    """The images."""

    source: str = "auto"
    """auto: CIFAR-10 if it is in `root` or comes within half a minute, else synthetic; cifar10; synthetic (drawn, no
    files); folder:PATH, with PATH/train/<class>/ and PATH/test/<class>/ (or val/) holding image files; npz:PATH, a .npz file or
    a folder of .npy files with train_images, train_labels, test_images, test_labels; parquet:PATH, a folder of parquet files
    with images; or hf:OWNER/NAME, such files of a data set of the Hugging Face hub."""
    image_column: str | None = None
    """Which column of parquet files has the images; none takes the only one that can."""
    label_column: str | None = None
    """Which column of parquet files has the labels; none takes the only one that can."""
    root: str | None = None
    """Where CIFAR-10 is kept and decoded images are cached; none means ~/.cache/twinstep."""
    download: bool = True
    """Let torchvision fetch CIFAR-10 when it is not in `root`, and huggingface_hub what hf:OWNER/NAME means."""
    augment: bool = True
    """Shift training images by up to 4 pixels and flip half of them."""
    train_images: Images | None = None
    """Train on this many images, taken evenly from the whole set; none takes all."""
    test_images: Images | None = None
    """Evaluate on this many images, taken evenly from the whole set; none takes all."""

    @field_validator("source")
    @classmethod
    def _known_source(cls, source: str) -> str:
        if source in ("auto", "cifar10", "synthetic") or (source.startswith(_NAMED) and source not in _NAMED):
            return source
        raise ValueError(f"accepted are {SOURCES}")

    @property
    def cache(self) -> Path:
        """`root`, or what stands in for it. Raises BadInput for a root that is no path."""
        if self.root is not None:
            return expand_path(self.root, "data.root")
        return Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "twinstep"
