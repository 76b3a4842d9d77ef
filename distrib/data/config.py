"""Defines the table [data] of a recipe: where images come from, and how training images are varied."""

import os
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from distrib.config.section import Section
from distrib.data.images import SIZE
from distrib.errors import BadInput
from distrib.files import expand_path

Images = Annotated[int, Field(ge=1, le=10**7)]
"""How many images. All of them are in memory, three kilobytes each if they are 32 x 32."""
Alpha = Annotated[float, Field(ge=0, le=1000)]
"""The parameter of a Beta distribution: below 1 images are mostly one of two, above mostly both; 0 stands for no mixing."""
Share = Annotated[float, Field(gt=0, le=1)]
_LEAST_ALPHA = 1e-6  # with less no image is mixed: each share is 0 or 1, and at last not a number
ImageSize = Annotated[int, Field(ge=8, le=512)]
"""Pixels, height and width."""
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
    """Whether torchvision may download CIFAR-10 if it is not in `root`, and huggingface_hub the data set of hf:OWNER/NAME."""
    image_size: ImageSize = SIZE
    """Pixels, height and width, to which all images are resized before anything else is done with them,
    and which the network sees."""
    augment: bool = True
    """Vary training images, as `shift` or `crop_scale`, `flip`, `cutout`, `mixup` and `cutmix` say;
    false leaves them as they are."""
    shift: Annotated[int, Field(ge=0, le=16)] = 4
    """Pixels that a training image may move in each direction; what comes in is its own mirror image."""
    crop_scale: Annotated[tuple[Share, Share], Field(strict=False)] | None = None
    """Instead of the shift, show a window of each training image enlarged to the whole (a random resized crop), with a share of
    its area from the first to the second number and a ratio from 3/4 to 4/3; [0.08, 1.0] is usual for large photographs."""
    flip: Literal["random", "alternate", "none"] = "random"
    """Flip left and right: by chance in each epoch; in every second epoch, by chance the odd or the even ones; or never."""
    cutout: Annotated[int, Field(ge=0, le=512)] = 0
    """Height and width in pixels of a square that is painted over in each training image, up to image_size; 0 paints nothing."""
    mixup: Alpha = 0.0
    """Mix each training image with another one of its batch, by a share drawn from Beta(mixup, mixup) for each step;
    0 mixes nothing."""
    cutmix: Alpha = 0.0
    """Put a rectangle out of another image of its batch into each one, of a share drawn from Beta(cutmix, cutmix); 0 puts in
    nothing. With mixup as well, each step takes one of the two by chance."""
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

    @field_validator("mixup", "cutmix")
    @classmethod
    def _mixes_something(cls, alpha: float) -> float:
        if 0 < alpha < _LEAST_ALPHA:
            raise ValueError(f"accepted are {_LEAST_ALPHA:g} to 1000, and 0, which mixes nothing")
        return alpha

    @model_validator(mode="after")
    def _something_to_vary(self) -> Self:
        fields = type(self).model_fields
        for name in ("shift", "crop_scale", "flip", "cutout", "mixup", "cutmix"):
            value = getattr(self, name)
            if not self.augment and value != fields[name].default:
                shown = list(value) if name == "crop_scale" else value
                raise ValueError(
                    f"data.{name} = {shown} has no effect with data.augment = false: set that to true, or leave {name} out"
                )
        return self

    @model_validator(mode="after")
    def _either_crop_or_shift(self) -> Self:
        if self.crop_scale is None:
            return self
        if self.shift != type(self).model_fields["shift"].default:
            raise ValueError(
                f"data.shift = {self.shift} has no effect with data.crop_scale, which takes its place: leave one of them out"
            )
        if self.crop_scale[0] > self.crop_scale[1]:
            raise ValueError(
                f"data.crop_scale = {list(self.crop_scale)} begins with the larger share: give the least and then the most"
            )
        return self

    @model_validator(mode="after")
    def _within_the_image(self) -> Self:
        for name, most in (("shift", self.image_size - 1), ("cutout", self.image_size)):
            if getattr(self, name) > most:
                raise ValueError(
                    f"data.{name} = {getattr(self, name)} is too much for data.image_size = {self.image_size}: choose at most "
                    f"{most}, or larger images"
                )
        return self

    @property
    def cache(self) -> Path:
        """`root`, or what stands in for it.

        Raises BadInput for a root that is no path, and where there is no home for a cache.
        """
        if self.root is not None:
            return expand_path(self.root, "data.root")
        ours = Path(os.environ.get("XDG_CACHE_HOME", ""))
        if ours.is_absolute():  # another value is to be ignored, as the XDG specification says
            return ours / "twinstep"
        try:
            return Path("~/.cache/twinstep").expanduser()
        except RuntimeError:
            raise BadInput(
                "data.root = none means ~/.cache/twinstep, and this user has no home directory: set data.root, or HOME"
            ) from None
