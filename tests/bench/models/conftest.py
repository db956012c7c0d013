"""An independent transformer to compare with."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from bench.models.transformer import Block


def _encoder_layer(block: Block, *, norm: str, activation: nn.Module) -> nn.Module:
    """torch's own layer with the block's weights, in eval mode."""
    width = block.attention.output.in_features
    theirs = nn.TransformerEncoderLayer(
        width,
        block.attention.heads,
        block.mlp.up.out_features,
        dropout=0.0,
        activation=activation,
        batch_first=True,
        norm_first=norm == "pre",
        dtype=block.mlp.up.weight.dtype,
    )
    names = {
        "self_attn.in_proj_": "attention.qkv.",
        "self_attn.out_proj.": "attention.output.",
        "linear1.": "mlp.up.",
        "linear2.": "mlp.down.",
        "norm1.": "norm1.",
        "norm2.": "norm2.",
    }
    state = {
        theirs_name + part: block.get_parameter(ours_name + part)
        for theirs_name, ours_name in names.items()
        for part in ("weight", "bias")
    }
    theirs.load_state_dict(state)
    return theirs.eval()


@pytest.fixture
def reference_blocks() -> Callable[..., Tensor]:
    """A function that sends tokens [B, T, dim] through torch's layers with the blocks' weights."""

    def through(
        blocks: nn.ModuleList, tokens: Tensor, norm: str, activation: nn.Module, causal: bool
    ) -> Tensor:
        size = tokens.shape[1]
        future = torch.ones(size, size, dtype=torch.bool).triu(1)
        for block in blocks:
            assert isinstance(block, Block)
            layer = _encoder_layer(block, norm=norm, activation=activation)
            tokens = layer(tokens, src_mask=future if causal else None)
        return tokens

    return through


@pytest.fixture
def randomise() -> Callable[[nn.Module], nn.Module]:
    """A function that gives every parameter random values, so that none hides behind 0 or 1."""

    def fill(model: nn.Module) -> nn.Module:
        torch.manual_seed(1)
        for parameter in model.parameters():
            nn.init.normal_(parameter, std=0.3)
        return model.double()

    return fill
