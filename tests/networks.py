"""Networks of somebody else's, which tests train as `model.name = tests.networks:NAME`, right ones and wrong ones."""

import os
import signal
from typing import Any

import torch
from torch import Tensor, nn

NOT_CALLABLE = 3


def drawn(num_classes: int, *, width: int = 4, dropout: float = 0.3) -> nn.Module:
    """Return a small network with batch norm and dropout."""
    return nn.Sequential(
        nn.BatchNorm2d(3, momentum=1.0),  # its running statistics are those of the last batch
        nn.AvgPool2d(4),
        nn.Conv2d(3, width, 3),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.Flatten(),
        nn.Dropout(dropout),
        nn.Linear(width * 36, num_classes),
    )


class Frozen(nn.Module):
    """A network with a frozen layer, and buffers of many kinds that are no statistics of a batch norm."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.still = nn.Conv2d(3, 4, 3, stride=8).requires_grad_(False)
        self.head = nn.Linear(64, num_classes)
        self.scale: Tensor
        self.chosen: Tensor
        self.used: Tensor
        self.register_buffer("scale", torch.tensor(0.1))
        self.register_buffer("chosen", torch.arange(64))
        self.register_buffer("used", torch.ones(64, dtype=torch.bool))
        self.register_buffer("limit", torch.full((3,), 7.7, dtype=torch.float64))

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.still(images).flatten(1)[:, self.chosen] * self.used) * self.scale


class Counting(Frozen):
    """A network with a buffer that becomes another one on each rank."""

    def forward(self, images: Tensor) -> Tensor:
        if self.training:
            self.scale += 1e-3 * images.mean()
        return super().forward(images)


class Certain(nn.Module):
    """A network whose logits in evaluation are infinite, and whose weights are not."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.head = nn.Linear(3072, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        logits = self.head(images.flatten(1))
        return logits if self.training else logits * float("inf")


class Looking(nn.Module):
    """A network that goes another way for other images."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.head = nn.Linear(3072, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(images.flatten(1) * (2 if images.mean().item() > 0 else 1))


def no_module(num_classes: int) -> Any:
    return ["conv", num_classes]


def raises(num_classes: int) -> nn.Module:
    raise RuntimeError(f"no weights for {num_classes} classes")


def exits(num_classes: int) -> nn.Module:
    raise SystemExit(f"usage: train.py --classes {num_classes}")


class Killed(nn.Module):
    """A network that kills rank 1 at its twelfth batch, but not when a launcher has started the ranks again."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.head, self.batches = nn.Linear(3072, num_classes), 0

    def forward(self, images: Tensor) -> Tensor:
        self.batches += 1
        if self.batches == 12 and (os.environ.get("RANK"), os.environ.get("TORCHELASTIC_RESTART_COUNT")) == ("1", "0"):
            os.kill(os.getpid(), signal.SIGKILL)
        return self.head(images.flatten(1))


def grey(num_classes: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(3600, num_classes))


def too_many(num_classes: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(3072, num_classes + 1))


class Viewing(nn.Module):
    """A network that takes the order of its numbers in memory for that of its axes."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 4, 3), nn.Linear(3600, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.conv(images).view(-1, 3600))


class OnlyTraining(nn.Module):
    """A network that nobody has tried in evaluation mode."""

    def __init__(self, num_classes: int, *, returns: int = 0) -> None:
        super().__init__()
        self.head, self.returns = nn.Linear(3072, num_classes), returns

    def forward(self, images: Tensor) -> Tensor:
        logits = self.head(images.flatten(1))
        if self.training:
            return logits
        return logits[:, : self.returns] if self.returns else self.head.weight @ logits


class Late(nn.Module):
    """A network that registers a buffer when it sees its first images."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.head = nn.Linear(3072, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        if not hasattr(self, "middle"):
            self.register_buffer("middle", images.mean())
        return self.head(images.flatten(1))


class Replacing(nn.Module):
    """A network that puts another tensor in the place of its buffer, in evaluation mode as well."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.head = nn.Linear(3072, num_classes)
        self.register_buffer("middle", torch.zeros(()))

    def forward(self, images: Tensor) -> Tensor:
        self.middle = images.mean()
        return self.head(images.flatten(1))


class Untensored(nn.Linear):
    def __init__(self, num_classes: int) -> None:
        super().__init__(3072, num_classes)

    def get_extra_state(self) -> str:
        return "anything"

    def set_extra_state(self, state: str) -> None:
        del state


def half(num_classes: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(3072, num_classes).half())


def lazy(num_classes: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(num_classes))


def nothing_to_train(num_classes: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(3072, num_classes).requires_grad_(False))


class Unused(nn.Module):
    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.used, self.spare = nn.Linear(3072, num_classes), nn.Linear(3, 3)

    def forward(self, images: Tensor) -> Tensor:
        return self.used(images.flatten(1))


class Tied(nn.Module):
    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3072, num_classes), nn.Linear(3072, num_classes)
        self.second.weight = self.first.weight

    def forward(self, images: Tensor) -> Tensor:
        return self.first(images.flatten(1)) + self.second(images.flatten(1))
