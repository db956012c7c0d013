"""Decoder-only language models of GPT-2's kind, for next tokens or for classes."""

from __future__ import annotations

import math
from typing import Literal, TypeAlias

from torch import Tensor, nn

from bench.models.checks import check_choice, check_positive
from bench.models.transformer import Activation, BlockOptions, NormPlace

Task: TypeAlias = Literal["lm", "classification"]


class GPT(nn.Module):
    """GPT-2 (Radford et al. 2019): learned positions, causal pre-norm blocks, GELU.

    Layers ``token_embedding``, ``position_embedding``, ``blocks.0`` ... as in
    `bench.models.transformer`, ``norm``, ``head`` (without a bias, as there).

    Args:
        vocab_size: number of different tokens.
        context_length: longest sequence, in tokens.
        num_classes: number of classes; read with ``task="classification"`` only.
        task: "lm" gives the next token's logits at each position; "classification" gives one set
            of class logits a sequence, from its last token, the only one that has seen them all.
        dim: width of a token.
        layers: number of blocks.
        heads: number of attention heads, a divisor of ``dim``.
        mlp_ratio: width of the feed-forward's hidden layer over ``dim``.
        tied: whether the head's weight is the token embedding's (task "lm" only).
        norm: "pre" or "post" (the LayerNorms before the branches or after the sums).
        layer_norm: False leaves every LayerNorm out.
        activation: "gelu", "gelu_tanh" (GPT-2's) or "relu".
        dropout: probability in training.

    Raises:
        ValueError: an option is out of range, or ``tied`` with task "classification".
    """

    def __init__(
        self,
        vocab_size: int,
        context_length: int,
        num_classes: int,
        *,
        task: Task = "lm",
        dim: int = 384,
        layers: int = 6,
        heads: int = 6,
        mlp_ratio: int = 4,
        tied: bool = False,
        norm: NormPlace = "pre",
        layer_norm: bool = True,
        activation: Activation = "gelu_tanh",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        check_positive(
            "gpt",
            vocab_size=vocab_size,
            context_length=context_length,
            num_classes=num_classes,
            layers=layers,
        )
        check_choice("gpt", "task", task, ("lm", "classification"))
        if tied and task != "lm":
            raise ValueError("tied of gpt needs task=lm: class logits are not token logits")
        options = BlockOptions(dim, heads, mlp_ratio, norm, layer_norm, activation, dropout)
        options.check("gpt")
        self.context_length, self.task = context_length, task
        self.token_embedding = nn.Embedding(vocab_size, dim)
        self.position_embedding = nn.Embedding(context_length, dim)
        self.dropout = nn.Dropout(dropout)
        self.blocks = options.blocks(layers, causal=True)
        self.norm = options.final_norm()
        self.head = nn.Linear(dim, vocab_size if task == "lm" else num_classes, bias=False)
        self._initialise()
        if tied:
            self.head.weight = self.token_embedding.weight

    def forward(self, inputs: Tensor) -> Tensor:
        """Return logits of tokens int64 [B, T]: [B, T, vocab_size], or [B, num_classes].

        Raises:
            ValueError: more tokens than ``context_length``.
        """
        length = inputs.shape[1]
        if length > self.context_length:
            raise ValueError(
                f"a sequence of {length} tokens is longer than the context of {self.context_length}"
            )
        tokens = self.token_embedding(inputs) + self.position_embedding.weight[:length]
        tokens = self.dropout(tokens)
        for block in self.blocks:
            tokens = block(tokens)
        if self.task == "classification":
            tokens = tokens[:, -1]
        logits: Tensor = self.head(self.norm(tokens))
        return logits

    def _initialise(self) -> None:
        """Normal with std 0.02, over sqrt(2 layers) where a branch ends; biases zero: GPT-2's."""
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                ends_branch = name.endswith((".attention.output", ".mlp.down"))
                scale = 1 / math.sqrt(2 * len(self.blocks)) if ends_branch else 1.0
                nn.init.normal_(module.weight, std=0.02 * scale)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)
