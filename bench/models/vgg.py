"""torchvision's VGG networks with a head for small images."""

from __future__ import annotations

import torch
from torch import nn

from bench.compat import ensure_torchvision
from bench.models.checks import check_positive, check_probability

_POOLINGS = 5  # each halves the image


def vgg11(
    in_channels: int,
    num_classes: int,
    image_size: int,
    *,
    batch_norm: bool = True,
    head_width: int = 512,
    dropout: float = 0.0,
) -> nn.Module:
    """Return an untrained VGG-11 (Simonyan & Zisserman 2015, configuration A) with a small head.

    ImageNet's 7x7 average pooling and two layers of 4096 give way to ``classifier.0``, a hidden
    layer on the flattened last feature map (512 channels of 1x1 from 32x32 images, of 2x2 from
    64x64), and ``classifier.3``, the output layer. Poolings round up, so that images of any size
    pass; a multiple of 32 does not notice. Initialised as torchvision does.

    It has 9,493,770 parameters at 3x32x32 and 10 classes, 10,377,672 at 3x64x64 and 200.

    Args:
        in_channels: channels of an image.
        num_classes: number of outputs.
        image_size: side of the square images, in pixels; any.
        batch_norm: whether a batch norm follows each convolution. The network of 2015 has none and
            needs small steps: AdamW with its default learning rate of 2e-3 leaves it at a guess.
        head_width: width of ``classifier.0``.
        dropout: probability before ``classifier.3``, in training.

    Raises:
        ValueError: an option is out of range.
    """
    check_positive("vgg11", in_channels=in_channels, image_size=image_size)
    head = _head("vgg11", num_classes, image_size, head_width, dropout)
    return _assembled("A", in_channels, batch_norm, head)


def vgg16(
    in_channels: int,
    num_classes: int,
    image_size: int,
    *,
    batch_norm: bool = True,
    head_width: int = 512,
    dropout: float = 0.0,
) -> nn.Module:
    """Return an untrained VGG-16 (configuration D); arguments and head as of `vgg11`.

    It has 14,990,922 parameters at 3x32x32 and 10 classes, 15,874,824 at 3x64x64 and 200.
    """
    check_positive("vgg16", in_channels=in_channels, image_size=image_size)
    head = _head("vgg16", num_classes, image_size, head_width, dropout)
    return _assembled("D", in_channels, batch_norm, head)


def _head(
    name: str, num_classes: int, image_size: int, head_width: int, dropout: float
) -> nn.Sequential:
    check_positive(name, num_classes=num_classes, head_width=head_width)
    check_probability(name, dropout=dropout)
    side = -(-image_size // 2**_POOLINGS)
    return nn.Sequential(
        nn.Linear(512 * side**2, head_width),
        nn.ReLU(inplace=True),
        nn.Dropout(dropout),
        nn.Linear(head_width, num_classes),
    )


def _assembled(
    configuration: str, in_channels: int, batch_norm: bool, head: nn.Sequential
) -> nn.Module:
    ensure_torchvision()
    from torchvision.models import vgg  # seconds that other models do without

    with torch.device("meta"):  # its 124 million weights for ImageNet's head are not wanted
        model: nn.Module = vgg.VGG(nn.Sequential(), init_weights=False)
    features = vgg.make_layers(vgg.cfgs[configuration], batch_norm)
    if in_channels != 3:
        features[0] = nn.Conv2d(in_channels, 64, kernel_size=3, padding=1)
    for layer in features:
        if isinstance(layer, nn.MaxPool2d):
            layer.ceil_mode = True
    model.features, model.avgpool, model.classifier = features, nn.Identity(), head
    _initialise(model)
    return model


def _initialise(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.01)
        if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
