"""Builds torchvision's ResNet-18 with the stem that everybody gives it for CIFAR."""

from torch import nn
from torchvision.models import resnet18 as for_imagenet


def resnet18(num_classes: int = 10, *, zero_init_residual: bool = False) -> nn.Module:
    """Return a network from (N, 3, H, W) float to (N, num_classes) logits; 11,173,962 parameters for ten classes.

    Images of 32 x 32 would leave the stem of ImageNet, a 7x7 convolution and a pooling that both halve the image, as 8 x 8.
    A 3x3 convolution that keeps the size takes its place, as in He et al., "Deep Residual Learning for Image Recognition"
    (CVPR 2016), section 4.2. With `zero_init_residual` each block begins as the identity (Goyal et al., "Accurate, Large
    Minibatch SGD", 2017, section 5.1).
    """
    network = for_imagenet(num_classes=num_classes, zero_init_residual=zero_init_residual)
    network.conv1 = nn.Conv2d(3, 64, kernel_size=3, padding=1, bias=False)
    nn.init.kaiming_normal_(network.conv1.weight, mode="fan_out", nonlinearity="relu")  # as torchvision's own
    network.maxpool = nn.Identity()  # pyright: ignore[reportAttributeAccessIssue] (declared as the pooling)
    return network
