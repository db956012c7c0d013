"""Small networks of every kind that the engines measure, and the dense Hessian along directions."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from analysis.curvature_core.directions import Directions
from analysis.curvature_core.objective import Settings

DOUBLE = Settings(dtype=torch.float64)
Data = tuple[Tensor, Tensor]


class Residual(nn.Module):
    """x + f(x), f by name."""

    def __init__(self, *body: nn.Module) -> None:
        super().__init__()
        self.body = nn.Sequential(*body)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class Encoder(nn.Module):
    """Attention and MLP with LayerNorm and residuals, over vectors [B, T, 4]."""

    def __init__(self, act: nn.Module) -> None:
        super().__init__()
        self.norm, self.qkv, self.proj = nn.LayerNorm(4), nn.Linear(4, 12), nn.Linear(4, 4)
        self.mlp = nn.Sequential(nn.LayerNorm(4), nn.Linear(4, 6), act, nn.Linear(6, 4))
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm(x)).unsqueeze(1).chunk(3, dim=-1)
        x = x + self.proj(F.scaled_dot_product_attention(q, k, v).squeeze(1))
        return self.head((x + self.mlp(x)).mean(dim=1))


def mlp(act: Callable[[], nn.Module]) -> nn.Module:
    return nn.Sequential(nn.Linear(4, 6), act(), Residual(nn.Linear(6, 6), act()), nn.Linear(6, 3))


def convnet(act: Callable[[], nn.Module]) -> nn.Module:
    """Padding, stride, dilation, groups, reflection; BatchNorm, pooling, a residual."""
    body = nn.Conv2d(4, 4, 3, padding="same", dilation=2, groups=2), nn.BatchNorm2d(4), act()
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), act(), Residual(*body),
        nn.Conv2d(4, 6, 2, stride=2, padding=1, padding_mode="reflect"), act(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(24, 3),
    )  # fmt: skip


def inplace() -> nn.Module:
    return nn.ReLU(inplace=True)


class Case(NamedTuple):
    model: Callable[[], nn.Module]
    shape: tuple[int, ...]
    linear: bool  # piecewise linear above every weight


CASES = {
    "mlp_relu": Case(lambda: mlp(nn.ReLU), (4,), True),
    "mlp_gelu": Case(lambda: mlp(nn.GELU), (4,), False),
    "mlp_inplace": Case(lambda: mlp(inplace), (4,), True),
    "mlp_leaky": Case(lambda: mlp(nn.LeakyReLU), (4,), True),
    "conv_relu": Case(lambda: convnet(nn.ReLU), (2, 7, 7), True),
    "conv_inplace": Case(lambda: convnet(inplace), (2, 7, 7), True),
    "conv_gelu": Case(lambda: convnet(nn.GELU), (2, 7, 7), False),
    "attention_relu": Case(lambda: Encoder(nn.ReLU()), (3, 4), False),
    "attention_gelu": Case(lambda: Encoder(nn.GELU()), (3, 4), False),
}


def network(case: str) -> nn.Module:
    torch.manual_seed(0)
    model = CASES[case].model().double()
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.running_mean.uniform_(-0.5, 0.5)
            norm.running_var.uniform_(0.5, 2.0)
    return model


def batch(case: str, n: int = 7) -> Data:
    stream = torch.Generator().manual_seed(1)
    inputs = torch.randn(n, *CASES[case].shape, generator=stream, dtype=torch.float64)
    return inputs, torch.randint(0, 3, (n,), generator=stream)


def random_directions(model: nn.Module, layers: list[str], k: int = 4) -> dict[str, Directions]:
    stream = torch.Generator().manual_seed(2)
    found = {}
    for layer in layers:
        shape = model.get_parameter(f"{layer}.weight").flatten(1).shape
        u, v = (F.normalize(torch.randn(s, k, generator=stream).double(), dim=0) for s in shape)
        found[layer] = Directions(torch.ones(k), u, v)
    return found


def dense(model: nn.Module, layer: str, data: Data, directions: Directions) -> Tensor:
    """Return vec(d)^T H vec(d), H the whole Hessian in one weight by reverse over reverse."""
    weight = model.get_parameter(f"{layer}.weight").detach()

    def loss(flat: Tensor) -> Tensor:
        replaced = {f"{layer}.weight": flat.view_as(weight)}
        outputs = torch.func.functional_call(model, replaced, (data[0],))
        return F.cross_entropy(outputs, data[1])

    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        hessian = torch.autograd.functional.hessian(loss, weight.flatten())
    flat = torch.einsum("mk,nk->kmn", directions.left, directions.right).flatten(1)
    return torch.einsum("ki,ij,kj->k", flat, hessian, flat)


class Tokens(nn.Module):
    """Piecewise linear, with logits at every position; Conv1d over time."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.mix = nn.Embedding(6, 4), nn.Conv1d(4, 5, 3, padding=1)
        self.up, self.head = nn.Linear(5, 7), nn.Linear(7, 6)

    def forward(self, tokens: Tensor) -> Tensor:
        x = F.relu(self.mix(self.embed(tokens).mT)).mT
        return self.head(F.relu(self.up(x)))


def token_loss(logits: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(logits.flatten(0, -2), labels.flatten())
