"""Directional curvature against dense Hessians: written out by hand, and by autograd."""

import copy
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.func import functional_call, hessian

from analysis.curvature_core.directions import Directions, gradient_directions
from analysis.curvature_core.engines import curvature
from analysis.curvature_core.objective import Settings

DOUBLE = Settings(dtype=torch.float64)


def batch(n: int, *shape: int, classes: int = 3, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(n, *shape, generator=generator, dtype=torch.float64)
    return inputs, torch.randint(0, classes, (n,), generator=generator)


def random_directions(model: nn.Module, layer: str, count: int = 6, seed: int = 1) -> Directions:
    """Return unit pairs of no special kind, so that no symmetry of the gradient helps."""
    m, n = model.get_parameter(f"{layer}.weight").flatten(1).shape
    generator = torch.Generator().manual_seed(seed)
    left = torch.randn(m, count, generator=generator, dtype=torch.float64)
    right = torch.randn(n, count, generator=generator, dtype=torch.float64)
    return Directions(torch.ones(count), F.normalize(left, dim=0), F.normalize(right, dim=0))


def quotient(dense: Tensor, directions: Directions) -> Tensor:
    """Return vec(d)^T H vec(d) for each direction, H [mn, mn] row-major."""
    flat = torch.einsum("mk,nk->kmn", directions.left, directions.right).flatten(1)
    return torch.einsum("ki,ij,kj->k", flat, dense, flat)


def dense_hessian(model: nn.Module, layer: str, data: tuple[Tensor, Tensor]) -> Tensor:
    """Return the Hessian of the mean loss in one weight, by torch.func."""
    name = f"{layer}.weight"
    weight = model.get_parameter(name).detach()

    def loss(flat: Tensor) -> Tensor:
        outputs = functional_call(model, {name: flat.view_as(weight)}, (data[0],))
        return F.cross_entropy(outputs, data[1])

    return hessian(loss)(weight.flatten()).detach()


def softmax_curvature(logits: Tensor) -> Tensor:
    """Return diag p - p p^T of each sample, [B, C, C]."""
    p = logits.softmax(dim=1)
    return torch.diag_embed(p) - p[:, :, None] * p[:, None, :]


def check(model: nn.Module, layer: str, dense: Tensor, data: tuple[Tensor, Tensor]) -> Tensor:
    """Compare gradient and random directions with a dense Hessian; return h of the former."""
    found = gradient_directions(model, F.cross_entropy, data, [layer], 20, settings=DOUBLE)
    for directions in (found[layer], random_directions(model, layer)):
        h = curvature(model, F.cross_entropy, data, [layer], {layer: directions}, settings=DOUBLE)
        torch.testing.assert_close(h[layer], quotient(dense, directions), atol=1e-12, rtol=1e-10)
    return curvature(model, F.cross_entropy, data, [layer], found, settings=DOUBLE)[layer]


@pytest.mark.parametrize("bias", [True, False])
def test_softmax_regression_by_hand(bias: bool) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 4, bias=bias)).double()
    data = batch(40, 5, classes=4)
    x, a = data[0], softmax_curvature(model(data[0]))
    dense = torch.einsum("bij,bk,bl->ikjl", a, x, x).reshape(20, 20) / 40
    h = check(model, "0", dense.detach(), data)
    assert (h > -1e-14).all()  # a convex problem


@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_two_layer_network_by_hand(activation: str) -> None:
    """First layer: f' f'^T W2^T A W2 (Gauss-Newton) plus diag(f'' W2^T e), both kron x x^T."""
    torch.manual_seed(1)
    function = {"relu": nn.ReLU(), "tanh": nn.Tanh()}[activation]
    model = nn.Sequential(nn.Linear(4, 6), function, nn.Linear(6, 3)).double()
    data = batch(30, 4)
    with torch.no_grad():
        x, labels = data
        z = model[0](x)
        slope, bend = (z > 0).double(), torch.zeros_like(z)
        if activation == "tanh":
            slope = 1 - torch.tanh(z) ** 2
            bend = -2 * torch.tanh(z) * slope
        a = softmax_curvature(model(x))
        error = model(x).softmax(dim=1) - F.one_hot(labels, 3)
        w2 = model[2].weight
        inner = torch.einsum("bi,ci,bcd,dj,bj->bij", slope, w2, a, w2, slope)
        inner += torch.diag_embed(bend * (error @ w2))
        first = torch.einsum("bij,bk,bl->ikjl", inner, x, x).reshape(24, 24) / 30
        y = function(z)
        second = torch.einsum("bij,bk,bl->ikjl", a, y, y).reshape(18, 18) / 30
    check(model, "0", first, data)
    check(model, "2", second, data)


class ConvNet(nn.Module):
    """Convolution, BatchNorm, pooling, strided and grouped convolution, head."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(2, 4, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.conv2 = nn.Conv2d(4, 4, 3, stride=2, groups=2)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.silu(self.norm(self.conv1(x))), 2)
        return self.head(torch.relu(self.conv2(x)).mean(dim=(2, 3)))


def trained_statistics(model: nn.Module) -> None:
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.running_mean.uniform_(-0.5, 0.5)
            norm.running_var.uniform_(0.5, 2.0)


@pytest.fixture
def convnet() -> nn.Module:
    torch.manual_seed(2)
    model = ConvNet().double()
    trained_statistics(model)
    return model.eval()


@pytest.mark.parametrize("layer", ["conv1", "conv2", "head"])
def test_convolutions_and_batch_norm(convnet: nn.Module, layer: str) -> None:
    data = batch(12, 2, 8, 8)
    check(convnet, layer, dense_hessian(convnet, layer, data), data)


class Attention(nn.Module):
    """One causal head of fused attention over tokens, as transformers write it."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(7, 4)
        self.qkv = nn.Linear(4, 12)
        self.head = nn.Linear(4, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        q, k, v = self.qkv(self.embed(tokens)).unsqueeze(1).chunk(3, dim=-1)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.head(mixed.squeeze(1).mean(dim=1))


@pytest.mark.parametrize("layer", ["qkv", "head"])
def test_fused_attention_has_a_second_derivative_here(layer: str) -> None:
    torch.manual_seed(3)
    model = Attention().double()
    tokens = torch.randint(0, 7, (10, 5))
    data = (tokens, torch.randint(0, 3, (10,)))
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        dense = dense_hessian(model, layer, data)
    check(model, layer, dense, data)


def test_transformer_encoder_layer_with_frozen_weights() -> None:
    """In eval mode without gradients torch would take a fast path that has no derivative."""
    torch.manual_seed(4)
    encoder = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True).double()
    model = nn.Sequential(encoder, nn.Flatten(), nn.Linear(12, 3).double()).eval()
    model.requires_grad_(False)
    data = batch(6, 3, 4)
    directions = random_directions(model, "0.linear1")
    h = curvature(
        model, F.cross_entropy, data, ["0.linear1"], {"0.linear1": directions}, settings=DOUBLE
    )
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        model.requires_grad_(True)
        expected = quotient(dense_hessian(model, "0.linear1", data), directions)
    torch.testing.assert_close(h["0.linear1"], expected, atol=1e-12, rtol=1e-10)


def test_curvature_can_be_negative() -> None:
    """Minus x^2 along the only weight: L = -w^2 mean(x^2), h = -2 mean(x^2)."""
    model = nn.Sequential(nn.Linear(1, 1, bias=False)).double()
    x, labels = batch(9, 1)
    directions = {"0": Directions(torch.ones(1), *(torch.ones(1, 1, dtype=torch.float64),) * 2)}
    h = curvature(
        model, lambda out, _: -(out**2).mean(), (x, labels), ["0"], directions, settings=DOUBLE
    )
    assert h["0"].item() == pytest.approx(-2 * (x**2).mean().item(), rel=1e-12)


def test_tanh_network_has_negative_directions() -> None:
    """Indefinite: with wrong labels, the bend of tanh outweighs the Gauss-Newton term."""
    torch.manual_seed(5)
    model = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    with torch.no_grad():
        model[2].weight.mul_(8)
    data = batch(20, 3)
    dense = dense_hessian(model, "0", data)
    h = check(model, "0", dense, data)
    many = random_directions(model, "0", count=60)
    h = curvature(model, F.cross_entropy, data, ["0"], {"0": many}, settings=DOUBLE)["0"]
    assert (h < -1e-3).any()
    assert (h > 1e-3).any()


@given(microbatch=st.integers(1, 15), n=st.integers(1, 13))
@settings(max_examples=12, deadline=None)
def test_microbatches_change_nothing(microbatch: int, n: int) -> None:
    torch.manual_seed(6)
    model = ConvNet().double().eval()
    layers, data = ["conv1", "head"], batch(n, 2, 8, 8)
    whole = gradient_directions(model, F.cross_entropy, data, layers, 5, settings=DOUBLE)
    parts = Settings(torch.float64, microbatch)
    one = curvature(model, F.cross_entropy, data, layers, whole, settings=DOUBLE)
    many = curvature(model, F.cross_entropy, data, layers, whole, settings=parts)
    for layer in layers:
        torch.testing.assert_close(many[layer], one[layer], atol=1e-13, rtol=1e-10)


def test_sign_and_scale_of_the_loss(convnet: nn.Module) -> None:
    data = batch(8, 2, 8, 8)
    directions = {"conv1": random_directions(convnet, "conv1")}
    flipped = {"conv1": Directions(torch.ones(6), -directions["conv1"].left,
                                   directions["conv1"].right)}  # fmt: skip

    def run(loss: object, along: dict[str, Directions]) -> Tensor:
        return curvature(convnet, loss, data, ["conv1"], along, settings=DOUBLE)["conv1"]

    h = run(F.cross_entropy, directions)
    torch.testing.assert_close(run(F.cross_entropy, flipped), h, atol=0, rtol=1e-10)
    tripled = run(lambda out, labels: -3 * F.cross_entropy(out, labels), directions)
    torch.testing.assert_close(tripled, -3 * h, atol=1e-14, rtol=1e-10)


def test_constant_gradients_have_no_curvature() -> None:
    """A linear loss, and a layer that the loss does not see."""
    model = nn.ModuleDict({"used": nn.Linear(3, 2), "unused": nn.Linear(3, 2)}).double()

    class Half(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.parts = model

        def forward(self, x: Tensor) -> Tensor:
            return self.parts["used"](x)

    network, data = Half(), batch(5, 3, classes=2)
    layers = ["parts.used", "parts.unused"]
    directions = {layer: random_directions(network, layer) for layer in layers}
    flat = curvature(network, lambda out, _: out.mean(), data, layers, directions, settings=DOUBLE)
    curved = curvature(network, F.cross_entropy, data, layers, directions, settings=DOUBLE)
    for layer in layers:
        assert flat[layer].tolist() == [0.0] * 6
    assert curved["parts.unused"].tolist() == [0.0] * 6
    assert (curved["parts.used"] > 0).all()


def test_float32_is_close_and_repeatable(convnet: nn.Module) -> None:
    model, data = copy.deepcopy(convnet).float(), batch(16, 2, 8, 8)
    exact = curvature_of(convnet, data, DOUBLE)
    first, second = (curvature_of(model, data, Settings()) for _ in range(2))
    assert torch.equal(first, second)
    assert not torch.equal(first, exact)
    torch.testing.assert_close(first, exact, atol=1e-6, rtol=1e-4)


def curvature_of(model: nn.Module, data: tuple[Tensor, Tensor], how: Settings) -> Tensor:
    directions = {"conv1": random_directions(model, "conv1")}
    return curvature(model, F.cross_entropy, data, ["conv1"], directions, settings=how)["conv1"]


def test_progress_counts_to_the_end(convnet: nn.Module) -> None:
    seen: list[tuple[int, int]] = []
    layers = ["conv1", "head"]
    curvature(
        convnet,
        F.cross_entropy,
        batch(10, 2, 8, 8),
        layers,
        {layer: random_directions(convnet, layer, 2) for layer in layers},
        settings=Settings(torch.float64, microbatch=4),
        progress=lambda done, total: seen.append((done, total)),
    )
    assert seen == [(i, 6) for i in range(1, 7)]


def test_directions_must_fit(convnet: nn.Module) -> None:
    data, head = batch(4, 2, 8, 8), random_directions(convnet, "head")
    with pytest.raises(ValueError, match="layer 'conv1' has no directions"):
        curvature(convnet, F.cross_entropy, data, ["conv1"], {"head": head})
    with pytest.raises(ValueError, match=r"a \(3, 4\) matrix do not fit .* which is \(4, 18\)"):
        curvature(convnet, F.cross_entropy, data, ["conv1"], {"conv1": head})


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_agrees_with_cpu(convnet: nn.Module) -> None:
    data = batch(16, 2, 8, 8)
    exact = curvature_of(convnet, data, DOUBLE)
    on_gpu = curvature_of(convnet, data, Settings(torch.float64, device="cuda"))
    torch.testing.assert_close(on_gpu, exact, atol=1e-12, rtol=1e-9)
    single = curvature_of(convnet.cuda(), data, Settings())  # TF32 would miss this by 1e-3
    torch.testing.assert_close(single, exact, atol=1e-6, rtol=1e-4)
    assert math.isfinite(float(single.sum()))


class Shrinks(torch.autograd.Function):
    """x / (1 + x^2) whose derivative reads numbers, which vmap can't follow."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x / (1 + x**2)

    @staticmethod
    def backward(ctx: Any, errors: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return SlopeOfShrinks.apply(errors, x)


class SlopeOfShrinks(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, errors: Tensor, x: Tensor) -> Tensor:
        ctx.save_for_backward(errors, x)
        return errors * (1 - x**2) / (1 + x**2) ** 2

    @staticmethod
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor, Tensor]:
        errors, x = ctx.saved_tensors
        assert math.isfinite(outer.sum().item())
        slope = (1 - x**2) / (1 + x**2) ** 2
        bend = 2 * x * (x**2 - 3) / (1 + x**2) ** 3
        return outer * slope, outer * errors * bend


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("count", [1, 5, 12])
def test_directions_together_are_as_one_by_one(own: bool, count: int) -> None:
    torch.manual_seed(0)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.down = nn.Linear(5, 6), nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = self.up(x)
            return self.down(Shrinks.apply(x) if own else x / (1 + x**2))

    model, data = Net().double(), batch(8, 5)
    along = random_directions(model, "up", count)
    h = curvature(
        model, F.cross_entropy, data, ["up"], {"up": along},
        engine="double_backward", settings=DOUBLE,
    )["up"]  # fmt: skip
    plain = copy.deepcopy(model)
    plain.forward = lambda x: plain.down(plain.up(x) / (1 + plain.up(x) ** 2))  # type: ignore
    expected = quotient(dense_hessian(plain, "up", data), along)
    torch.testing.assert_close(h, expected, atol=1e-13, rtol=1e-10)
