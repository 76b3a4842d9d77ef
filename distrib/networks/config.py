"""Defines the table [model] of a recipe: which network a run trains, and how it is laid out in memory."""

import re
from collections.abc import Mapping

from pydantic import Field, field_validator

from distrib.config.section import Section

OWN = ("article", "resnet18", "speednet")
"""The networks of the project."""
SIZES: Mapping[str, tuple[int, int]] = {"article": (32, 32), "speednet": (9, 512)}
"""The smallest and the largest images, in pixels of height and width, for those of them that do not take every size."""
_FACTORY = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")

Scalar = bool | int | float | str


class ModelConfig(Section):
    """The network."""

    name: str = "article"
    """`article`: three convolutions and two linear layers, 145,578 parameters for ten classes; `resnet18`: torchvision's, with a
    3x3 stem; `speednet`: a small network with batch norm that learns fast; or `package.module:factory`, a callable of your own
    that takes num_classes and returns a torch.nn.Module, looked for in the current folder too."""
    options: dict[str, Scalar | list[Scalar]] = Field(default={})
    """Keyword arguments for whatever makes the network, such as { width = 2 }."""
    sync_batch_norm: bool = False
    """Batch norm over the images of all ranks (torch.nn.SyncBatchNorm, GPUs only) instead of each rank's own."""
    channels_last: bool = True
    """Store images and convolution weights as (N, H, W, C); 1.6 to 1.9 times faster on a CPU, and what tensor cores want."""

    @field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        if name in OWN or _FACTORY.fullmatch(name):
            return name
        raise ValueError(f"accepted are {', '.join(OWN)} or package.module:factory")
