"""torchvision's ResNets: with the stem for small images, or with published ImageNet weights."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from pathlib import Path

import torch
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


CLASSES = 1000


def resnet50_imagenet(in_channels: int, num_classes: int, image_size: int) -> nn.Module:
    """Return torchvision's ResNet-50 as it is, with the weights IMAGENET1K_V1.

    It has 25,557,032 parameters. The weights are read from torch hub's cache ($TORCH_HOME, by
    default ~/.cache/torch) and never downloaded here: a run may be on a machine without network.
    Where another number of classes is asked for, a new ``fc`` takes the place of the 1000 classes'.
    A trial construction on the meta device has no values, hence needs no weights.

    Args:
        in_channels: channels of an image: 3.
        num_classes: number of outputs.
        image_size: side of the square images, in pixels; any, though 224 is what it was trained on.

    Raises:
        ValueError: an argument is out of range, or the weights are absent or damaged.
    """
    check_positive("resnet50_imagenet", num_classes=num_classes, image_size=image_size)
    if in_channels != 3:
        raise ValueError(
            f"in_channels of resnet50_imagenet must be 3, not {in_channels}: use model=resnet50"
        )
    ensure_torchvision()
    from torchvision.models import ResNet50_Weights, resnet50  # seconds that others do without

    model: nn.Module = resnet50(weights=None)
    if not next(model.parameters()).is_meta:
        _load(model, "resnet50_imagenet", ResNet50_Weights.IMAGENET1K_V1.url)
    if num_classes != CLASSES:
        model.fc = nn.Linear(2048, num_classes)
    return model


def _load(model: nn.Module, name: str, url: str) -> None:
    """Load the file of ``url`` from torch hub's cache; its name ends in its SHA-256's first digits.

    Raises:
        ValueError: it is absent or damaged; the message has how to get it.
    """
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    path = folder / url.rpartition("/")[2]
    get = f"get it with network access: wget -P {folder} {url}"
    if not path.is_file():
        raise ValueError(f"{name}: no weights in {path}; {get}")
    digits = re.search(r"-([0-9a-f]{8,64})\.pth$", path.name)
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    if digits is None or not digest.startswith(digits[1]):
        raise ValueError(f"{name}: the weights in {path} are damaged; remove the file and {get}")
    model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
