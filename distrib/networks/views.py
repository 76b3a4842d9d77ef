"""Averages the logits of an image over several views of it: test-time augmentation."""

from typing import Literal

from torch import Tensor, nn
from torch.nn import functional

Tta = Literal["none", "flip", "flip_shift"]
_BY = 1  # pixels of the shifts


class AveragedViews(nn.Module):
    """(N, C, H, W) float -> (N, classes) float32: what `network` makes of the image itself, averaged with what it makes of
    others.

    `flip`: the image and its mirror image. `flip_shift`: those two make one half of the mean; the same two moved by a pixel down
    and right, and up and left, make the other half, where what comes in is the mirror image of what is there. These are the
    views of airbench94 (Jordan, arXiv 2404.00498, section 3.5). They cost two and six passes of the network.
    """

    def __init__(self, network: nn.Module, tta: Tta) -> None:
        super().__init__()
        self.network = network
        self.tta = tta

    def forward(self, images: Tensor) -> Tensor:
        if self.tta == "none":
            return self._logits(images)
        if self.tta == "flip":
            return self._both_ways(images)
        height, width = images.shape[2:]
        padded = functional.pad(images, (_BY, _BY, _BY, _BY), mode="reflect")
        moved = [self._both_ways(padded[:, :, at : at + height, at : at + width]) for at in (0, 2 * _BY)]
        return (self._both_ways(images) + (moved[0] + moved[1]) / 2) / 2

    def _both_ways(self, images: Tensor) -> Tensor:
        return (self._logits(images) + self._logits(images.flip(3))) / 2

    def _logits(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(images)
        return logits.float()
