"""Turns the bytes of images into the numbers that the network sees."""

import torch
from torch import Tensor


class Normalize:
    """uint8 (B, H, W, C) -> float32 (B, C, H, W), zero mean and unit variance a channel over the training set.

    The result keeps the memory order of its input, which is torch's channels_last.
    """

    def __init__(self, mean: Tensor, std: Tensor, device: torch.device, *, channels_last: bool) -> None:
        self.scale = (1.0 / (255.0 * std)).to(device)  # (C,)
        self.shift = (-mean / std).to(device)
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self._lines: dict[int, tuple[Tensor, Tensor]] = {}

    def __call__(self, images: Tensor) -> Tensor:
        shift, scale = self._line(images.shape[2])
        pixels = torch.addcmul(shift, images.flatten(2).float(), scale).view(images.shape)
        return pixels.permute(0, 3, 1, 2).contiguous(memory_format=self.memory_format)

    def _line(self, width: int) -> tuple[Tensor, Tensor]:
        """Return shift and scale of each value of a line of pixels: over three at a time a CPU takes five times as long."""
        if width not in self._lines:
            self._lines[width] = (self.shift.repeat(width), self.scale.repeat(width))
        return self._lines[width]
