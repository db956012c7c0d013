"""A multilayer perceptron on flattened images."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from bench.models.checks import check_positive


class MLP(nn.Module):
    """Linear layers ``hidden.0``, ``hidden.1``, ... with ReLU, then the linear ``head``.

    Args:
        in_channels: channels of an image.
        num_classes: number of outputs.
        image_size: side of the square images, in pixels.
        hidden: width of each hidden layer; an empty list makes it softmax regression.

    Raises:
        ValueError: a size is not an integer of 1 or more, or ``hidden`` is not a list.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        image_size: int,
        hidden: Sequence[int] = (256, 128),
    ) -> None:
        super().__init__()
        if isinstance(hidden, str) or not isinstance(hidden, Sequence):
            raise ValueError(f"hidden of mlp must be a list of widths ([256,128]), not {hidden}")
        check_positive(
            "mlp", in_channels=in_channels, num_classes=num_classes, image_size=image_size
        )
        for position, width in enumerate(hidden):
            check_positive("mlp", **{f"hidden[{position}]": width})
        widths = [in_channels * image_size**2, *hidden]
        self.hidden = nn.ModuleList(
            nn.Linear(before, after) for before, after in itertools.pairwise(widths)
        )
        self.head = nn.Linear(widths[-1], num_classes)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return logits [B, num_classes] of images [B, C, H, W]."""
        features = inputs.flatten(1)
        for layer in self.hidden:
            features = torch.relu(layer(features))
        logits: Tensor = self.head(features)
        return logits


def one_hidden(in_channels: int, num_classes: int, image_size: int, width: int = 256) -> MLP:
    """Return an MLP with one hidden layer of ``width``; the other arguments are `MLP`'s.

    Raises:
        ValueError: a size is not an integer of 1 or more.
    """
    check_positive("mlp_one_hidden", width=width)
    return MLP(in_channels, num_classes, image_size, hidden=(width,))
