"""torchvision's ResNets with the stem for small images."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from bench.compat import ensure_torchvision
from bench.models.checks import check_positive


def resnet18(in_channels: int, num_classes: int, image_size: int) -> nn.Module:
    """Return an untrained ResNet-18 with the CIFAR stem: see `_with_small_stem`.

    With 3 channels and 10 classes it has 11,173,962 parameters.

    Args:
        in_channels: channels of an image, 1 or 3.
        num_classes: number of outputs.
        image_size: side of the square images, in pixels; any, for the last average is global.

    Raises:
        ValueError: an argument is out of range.
    """
    ensure_torchvision()
    from torchvision.models import resnet18 as imagenet_resnet18  # seconds that others do without

    return _with_small_stem("resnet18", imagenet_resnet18, in_channels, num_classes, image_size)


def resnet50(in_channels: int, num_classes: int, image_size: int) -> nn.Module:
    """Return an untrained ResNet-50 with the CIFAR stem; arguments as of `resnet18`.

    With 3 channels and 10 classes it has 23,520,842 parameters.
    """
    ensure_torchvision()
    from torchvision.models import resnet50 as imagenet_resnet50

    return _with_small_stem("resnet50", imagenet_resnet50, in_channels, num_classes, image_size)


def _with_small_stem(
    name: str,
    build: Callable[..., nn.Module],
    in_channels: int,
    num_classes: int,
    image_size: int,
) -> nn.Module:
    """Build a ResNet whose stem is a 3x3 convolution of stride 1 without max-pooling.

    That is He et al. 2016, section 4.2, in place of the 7x7 of stride 2 with max-pooling that
    ImageNet's images call for. The head is ``fc``.
    """
    check_positive(name, num_classes=num_classes, image_size=image_size)
    if in_channels not in (1, 3):
        raise ValueError(f"in_channels of {name} must be 1 or 3, not {in_channels}")
    model = build(weights=None, num_classes=num_classes)
    stem = nn.Conv2d(in_channels, 64, kernel_size=3, stride=1, padding=1, bias=False)
    # As torchvision initialises all its convolutions.
    nn.init.kaiming_normal_(stem.weight, mode="fan_out", nonlinearity="relu")
    model.conv1 = stem
    model.maxpool = nn.Identity()
    return model
