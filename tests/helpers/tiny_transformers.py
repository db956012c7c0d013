"""Transformers so small that their whole Hessian takes a moment, and batches for them."""

from __future__ import annotations

import torch
from torch import Tensor

from bench.models.gpt import GPT
from bench.models.vit import ViT


def tiny_vit(**options: object) -> ViT:
    """Return a post-norm ViT of one block of width 4, float64, away from its initial symmetry."""
    torch.manual_seed(0)
    chosen = {"dim": 4, "layers": 1, "heads": 2, "mlp_ratio": 2, "norm": "post"} | options
    model = ViT(1, 3, 4, patch_size=2, **chosen).double()  # type: ignore[arg-type]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.3)
    return model


def images(count: int = 12) -> tuple[Tensor, Tensor]:
    """Return images [count, 1, 4, 4] and labels of three classes."""
    stream = torch.Generator().manual_seed(1)
    inputs = torch.randn(count, 1, 4, 4, generator=stream, dtype=torch.float64)
    return inputs, torch.randint(0, 3, (count,), generator=stream)


def tiny_gpt(tied: bool = False) -> GPT:
    """Return a GPT of one block of width 4, float64."""
    torch.manual_seed(0)
    model = GPT(5, 3, 2, dim=4, layers=1, heads=2, mlp_ratio=1, tied=tied).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.3)
    return model


def tokens(count: int = 6) -> tuple[Tensor, Tensor]:
    """Return tokens [count, 3] and the next ones."""
    stream = torch.Generator().manual_seed(2)
    drawn = torch.randint(0, 5, (count, 4), generator=stream)
    return drawn[:, :-1], drawn[:, 1:]
