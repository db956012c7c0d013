"""Vision transformers for small images."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from bench.models.checks import check_divides, check_positive
from bench.models.transformer import Activation, BlockOptions, NormPlace


class ViT(nn.Module):
    """A vision transformer (Dosovitskiy et al. 2021) that averages its patches: no class token.

    Layers ``patch_embedding``, ``blocks.0`` ... as in `bench.models.transformer`, ``norm`` (only if
    pre-norm: post-norm blocks end with one), ``head``; and the learned ``position_embedding``.
    The defaults are ViT-Tiny's sizes: 5,362,378 parameters with 3x32x32 images and 10 classes.

    Args:
        in_channels: channels of an image.
        num_classes: number of outputs.
        image_size: side of the square images, in pixels.
        patch_size: side of a patch, a divisor of ``image_size``.
        dim: width of a token.
        layers: number of blocks.
        heads: number of attention heads, a divisor of ``dim``.
        mlp_ratio: width of the feed-forward's hidden layer over ``dim``.
        norm: "pre" or "post" (the LayerNorms before the branches or after the sums).
        layer_norm: False leaves every LayerNorm out.
        activation: "gelu", "gelu_tanh" or "relu".
        dropout: probability in training.

    Raises:
        ValueError: an option is out of range, or ``patch_size`` does not divide ``image_size``.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        image_size: int,
        *,
        patch_size: int = 4,
        dim: int = 192,
        layers: int = 12,
        heads: int = 3,
        mlp_ratio: int = 4,
        norm: NormPlace = "pre",
        layer_norm: bool = True,
        activation: Activation = "gelu",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        check_positive(
            "vit",
            in_channels=in_channels,
            num_classes=num_classes,
            image_size=image_size,
            patch_size=patch_size,
            layers=layers,
        )
        check_divides("vit", patch_size=patch_size, image_size=image_size)
        options = BlockOptions(dim, heads, mlp_ratio, norm, layer_norm, activation, dropout)
        options.check("vit")
        self.patch_embedding = nn.Conv2d(in_channels, dim, patch_size, stride=patch_size)
        patches = (image_size // patch_size) ** 2
        self.position_embedding = nn.Parameter(torch.empty(patches, dim))
        self.dropout = nn.Dropout(dropout)
        self.blocks = options.blocks(layers, causal=False)
        self.norm = options.final_norm()
        self.head = nn.Linear(dim, num_classes)
        self._initialise()

    def forward(self, inputs: Tensor) -> Tensor:
        """Return logits [B, num_classes] of images [B, C, H, W]."""
        tokens = self.patch_embedding(inputs).flatten(2).transpose(1, 2)
        tokens = self.dropout(tokens + self.position_embedding)
        for block in self.blocks:
            tokens = block(tokens)
        logits: Tensor = self.head(self.norm(tokens).mean(dim=1))
        return logits

    @torch.no_grad()
    def _initialise(self) -> None:
        """Xavier within blocks, biases zero, a small head: as in the ViT paper's own code, but for
        the head, which is zero there, so that no other layer would have a gradient at first.
        """
        patch = self.patch_embedding.weight
        nn.init.normal_(patch, std=1 / math.sqrt(patch[0].numel()))
        nn.init.normal_(self.position_embedding, std=0.02)
        for name, module in self.blocks.named_modules():
            if isinstance(module, nn.Linear):
                for layer in module.weight.chunk(3 if name.endswith("qkv") else 1):
                    nn.init.xavier_uniform_(layer)  # queries, keys and values are three layers
        nn.init.normal_(self.head.weight, std=0.02)
        for name, parameter in self.named_parameters():
            if name.endswith(".bias"):
                nn.init.zeros_(parameter)
