"""The transformer block that ViT and GPT share, with layer names that tables can show.

Names within a block: ``norm1 attention.qkv attention.output norm2 mlp.up mlp.down``.

Attention runs through `torch.nn.functional.scaled_dot_product_attention`, whose fused kernels have
no second derivative. For curvature choose the mathematical form, which can be differentiated any
number of times, in reverse and forward mode, around both the forward and the backward pass::

    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        ...
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch.nn.functional as F
from torch import Tensor, nn

from bench.models.checks import check_choice, check_divides, check_positive, check_probability

NormPlace: TypeAlias = Literal["pre", "post"]
Activation: TypeAlias = Literal["gelu", "gelu_tanh", "relu"]


class Attention(nn.Module):
    """Multi-head self-attention (Vaswani et al. 2017, section 3.2).

    The rows of ``qkv.weight`` [3 dim, dim] are the queries', then the keys', then the values', each
    with one head of ``dim // heads`` rows after the other.

    Args:
        dim: width of a token.
        heads: number of heads.
        causal: whether a token sees itself and earlier ones only.
        dropout: probability that an attention weight is dropped in training.
    """

    def __init__(self, dim: int, heads: int, causal: bool, dropout: float) -> None:
        super().__init__()
        self.heads, self.causal, self.dropout = heads, causal, dropout
        self.qkv = nn.Linear(dim, 3 * dim)
        self.output = nn.Linear(dim, dim)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return what each token [B, T, dim] gathers from the others, [B, T, dim]."""
        query, key, value = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in self.qkv(tokens).chunk(3, dim=-1)
        )
        dropout = self.dropout if self.training else 0.0
        gathered = F.scaled_dot_product_attention(
            query, key, value, dropout_p=dropout, is_causal=self.causal
        )
        output: Tensor = self.output(gathered.transpose(1, 2).flatten(2))
        return output


class FeedForward(nn.Module):
    """Two linear layers, ``up`` and ``down``, with the activation between them."""

    def __init__(self, dim: int, hidden: int, activation: Activation) -> None:
        super().__init__()
        self.up = nn.Linear(dim, hidden)
        self.activation = _ACTIVATIONS[activation]()
        self.down = nn.Linear(hidden, dim)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the tokens [B, T, dim], each transformed on its own."""
        output: Tensor = self.down(self.activation(self.up(tokens)))
        return output


_ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "gelu": nn.GELU,
    "gelu_tanh": lambda: nn.GELU(approximate="tanh"),  # GPT-2's
    "relu": nn.ReLU,
}


@dataclass(frozen=True)
class BlockOptions:
    """What a block is made of.

    Attributes:
        dim: width of a token.
        heads: number of attention heads, a divisor of ``dim``.
        mlp_ratio: width of the feed-forward's hidden layer over ``dim``.
        norm: "pre" (GPT-2, ViT) normalises what a branch sees, x + f(LN(x)); "post" (Vaswani et
            al. 2017) normalises the sum, LN(x + f(x)).
        layer_norm: False leaves every LayerNorm out.
        activation: the feed-forward's; "gelu_tanh" is GPT-2's approximation of "gelu".
        dropout: probability in training, of attention weights and of each branch's output.
    """

    dim: int
    heads: int
    mlp_ratio: int
    norm: NormPlace
    layer_norm: bool
    activation: Activation
    dropout: float

    def check(self, model: str) -> None:
        """Raise a one-line ValueError for what cannot be."""
        check_positive(model, dim=self.dim, heads=self.heads, mlp_ratio=self.mlp_ratio)
        check_divides(model, heads=self.heads, dim=self.dim)
        check_choice(model, "norm", self.norm, ("pre", "post"))
        check_choice(model, "activation", self.activation, tuple(_ACTIVATIONS))
        check_probability(model, dropout=self.dropout)

    def blocks(self, layers: int, causal: bool) -> nn.ModuleList:
        """Return ``layers`` blocks; with ``causal`` a token sees itself and earlier ones only."""
        return nn.ModuleList(Block(self, causal) for _ in range(layers))

    def block_norm(self) -> nn.Module:
        """Return a LayerNorm, or nothing where there is none."""
        return nn.LayerNorm(self.dim) if self.layer_norm else nn.Identity()

    def final_norm(self) -> nn.Module:
        """Return the norm before the head: post-norm blocks end with one themselves."""
        return self.block_norm() if self.norm == "pre" else nn.Identity()


class Block(nn.Module):
    """Attention and feed-forward with residual connections: see `BlockOptions`."""

    def __init__(self, options: BlockOptions, causal: bool) -> None:
        super().__init__()
        dim = options.dim
        self.post_norm = options.norm == "post"
        self.norm1 = options.block_norm()
        self.attention = Attention(dim, options.heads, causal, options.dropout)
        self.norm2 = options.block_norm()
        self.mlp = FeedForward(dim, options.mlp_ratio * dim, options.activation)
        self.dropout = nn.Dropout(options.dropout)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the tokens [B, T, dim] after this block."""
        if self.post_norm:
            tokens = self.norm1(tokens + self.dropout(self.attention(tokens)))
            result: Tensor = self.norm2(tokens + self.dropout(self.mlp(tokens)))
        else:
            tokens = tokens + self.dropout(self.attention(self.norm1(tokens)))
            result = tokens + self.dropout(self.mlp(self.norm2(tokens)))
        return result
