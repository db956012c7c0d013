"""Attention on a GPU: a fused kernel in training, two exact derivatives on the other path."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.profiler import ProfilerActivity, profile

from bench.models.gpt import GPT
from bench.models.vit import ViT
from bench.training.losses import cross_entropy

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.fixture(params=["vit", "gpt"])
def case(request: pytest.FixtureRequest) -> tuple[nn.Module, Tensor, Tensor]:
    """Two blocks of the study's head size 64 with a batch, float64 on the CPU."""
    torch.manual_seed(0)
    if request.param == "vit":
        model: nn.Module = ViT(3, 10, 32, dim=128, layers=2, heads=2)
        inputs, targets = torch.randn(8, 3, 32, 32).double(), torch.arange(8)
    else:
        model = GPT(32, 64, 32, dim=128, layers=2, heads=2)
        tokens = torch.randint(32, (8, 65))
        inputs, targets = tokens[:, :-1], tokens[:, 1:]
    return model.double(), inputs, targets


def test_training_in_bfloat16_runs_a_fused_kernel(case: tuple[nn.Module, Tensor, Tensor]) -> None:
    model, inputs, targets = case
    with sdpa_kernel(SDPBackend.MATH):
        cross_entropy(model(inputs), targets).backward()
    exact = {name: p.grad for name, p in model.named_parameters()}
    fast = copy.deepcopy(model).float().cuda()
    fast.zero_grad()
    inputs = inputs.float() if inputs.is_floating_point() else inputs
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as seen:
        with torch.autocast("cuda", dtype=torch.bfloat16):
            loss = cross_entropy(fast(inputs.cuda()), targets.cuda())
        loss.backward()
    names = {event.key for event in seen.key_averages()}
    assert any("flash" in n or "cudnn_attention" in n for n in names if "scaled_dot" in n)
    assert "aten::_softmax" not in names
    for name, parameter in fast.named_parameters():
        assert parameter.grad is not None and exact[name] is not None
        error = (parameter.grad.cpu().double() - exact[name]).norm() / exact[name].norm()
        assert error < 0.05, name


def test_double_backward_agrees_with_the_cpu(case: tuple[nn.Module, Tensor, Tensor]) -> None:
    """H v in float64 along one direction of all parameters at once."""
    model, inputs, targets = case
    directions = [torch.randn_like(p) for p in model.parameters()]
    products = []
    for device in ("cpu", "cuda"):
        own = copy.deepcopy(model).to(device)
        with sdpa_kernel(SDPBackend.MATH):
            loss = cross_entropy(own(inputs.to(device)), targets.to(device))
            gradients = torch.autograd.grad(loss, list(own.parameters()), create_graph=True)
            along = sum(
                (g * v.to(device)).sum() for g, v in zip(gradients, directions, strict=True)
            )
            product = torch.autograd.grad(along, list(own.parameters()))
        products.append(torch.cat([part.flatten().cpu() for part in product]))
    assert products[0].norm() > 0
    torch.testing.assert_close(products[1], products[0], rtol=1e-8, atol=1e-10)
