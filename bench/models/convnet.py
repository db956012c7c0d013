"""A small convolutional network: the default model, made for quick studies of many runs."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.models.checks import check_positive

MIN_IMAGE_SIZE = 4  # two poolings halve it twice


class ConvNet(nn.Module):
    """Three 3x3 convolutions with batch norm and ReLU, the first two max-pooled by 2.

    Layers ``conv1 norm1 conv2 norm2 conv3 norm3 head``; channels are width, 2 width, 4 width. The
    last feature map is averaged over all positions, so that any image size of 4 or more works.

    Args:
        in_channels: channels of an image.
        num_classes: number of outputs.
        image_size: side of the square images, in pixels.
        width: channels of the first convolution.

    Raises:
        ValueError: a size is not an integer of 1 or more, or the images are below 4x4.
    """

    def __init__(
        self, in_channels: int, num_classes: int, image_size: int, width: int = 16
    ) -> None:
        super().__init__()
        check_positive("convnet", in_channels=in_channels, num_classes=num_classes, width=width)
        if image_size < MIN_IMAGE_SIZE:
            raise ValueError(
                f"convnet needs images of {MIN_IMAGE_SIZE}x{MIN_IMAGE_SIZE} pixels or more, "
                f"not {image_size}x{image_size}: use model=mlp"
            )
        # No biases: batch norm would subtract them again.
        self.conv1 = nn.Conv2d(in_channels, width, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, 2 * width, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(2 * width)
        self.conv3 = nn.Conv2d(2 * width, 4 * width, 3, padding=1, bias=False)
        self.norm3 = nn.BatchNorm2d(4 * width)
        self.head = nn.Linear(4 * width, num_classes)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return logits [B, num_classes] of images [B, C, H, W]."""
        # Pooling before the norm leaves it a quarter of the positions to work on.
        features = torch.relu(self.norm1(F.max_pool2d(self.conv1(inputs), 2)))
        features = torch.relu(self.norm2(F.max_pool2d(self.conv2(features), 2)))
        features = torch.relu(self.norm3(self.conv3(features)))
        logits: Tensor = self.head(features.mean(dim=(2, 3)))
        return logits
