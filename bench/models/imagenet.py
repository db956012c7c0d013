"""torchvision's networks with their published ImageNet weights, to be measured or fine-tuned."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import torch
from torch import nn

from bench.compat import ensure_torchvision
from bench.models.checks import check_positive

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
        ValueError: it is absent or damaged; the message says how to get it.
    """
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    path = folder / url.rpartition("/")[2]
    get = f"get it with network access: wget -P {folder} {url}"
    if not path.is_file():
        raise ValueError(f"{name}: no weights in {path}; {get}")
    digits = re.search(r"-([0-9a-f]{8,64})\.pth$", path.name)
    with path.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if digits is None or not found.startswith(digits[1]):
        raise ValueError(f"{name}: the weights in {path} are damaged; remove the file and {get}")
    model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
