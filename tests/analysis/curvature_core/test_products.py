"""Hessians of all parameters against torch.func's, finite differences, and by hand."""

import copy
import itertools

import pytest
import torch
import torch.nn.functional as F
from half_used import Half
from once_differentiable import OnceDifferentiable, Square
from tiny_transformers import images, tiny_gpt, tiny_vit, tokens
from torch import Tensor, nn
from torch.func import functional_call, jacrev
from torch.nn.attention import SDPBackend, sdpa_kernel

from analysis.curvature_core.objective import Loss, Settings, cross_entropy
from analysis.curvature_core.products import (
    Group,
    HessianProducts,
    by_parameter,
    by_role,
    dense_hessian,
)


def test_groups_of_a_vit_are_its_parameters_once_each() -> None:
    model = tiny_vit(layers=2)
    groups = by_parameter(model)
    spans = [span for group in groups for span in group.spans]
    total = sum(parameter.numel() for parameter in model.parameters())
    assert spans[0][0] == 0 and spans[-1][1] == total
    assert all(a[1] == b[0] for a, b in itertools.pairwise(spans))
    joined = torch.cat([parameter.flatten() for parameter in model.parameters()])
    by_name = {group.name: group for group in groups}
    qkv = model.blocks[1].attention.qkv
    for part, weight, bias in zip(
        ("query", "key", "value"), qkv.weight.chunk(3), qkv.bias.chunk(3), strict=True
    ):
        of_weight = by_name[f"blocks.1.attention.qkv.weight.{part}"]
        of_bias = by_name[f"blocks.1.attention.qkv.bias.{part}"]
        assert of_weight.take(joined).equal(weight.flatten()) and of_weight.role == part
        assert of_bias.take(joined).equal(bias) and of_bias.role == "bias"
    up = model.blocks[0].mlp.up
    assert by_name["blocks.0.mlp.up.weight"].take(joined).equal(up.weight.flatten())


def test_roles_join_the_blocks_and_keep_every_entry() -> None:
    model = tiny_vit(layers=2)
    roles = {group.name: group for group in by_role(by_parameter(model))}
    assert list(roles) == [
        "position_embedding", "patch_embedding", "bias", "norm", "query", "key", "value",
        "output", "mlp_up", "mlp_down", "head",
    ]  # fmt: skip
    assert roles["key"].size == 2 * 16 and len(roles["key"].spans) == 2
    assert roles["norm"].size == 2 * 2 * 2 * 4  # weights and biases of a norm are one role
    assert sum(role.size for role in roles.values()) == sum(p.numel() for p in model.parameters())
    joined = torch.cat([parameter.flatten() for parameter in model.parameters()])
    keys = [block.attention.qkv.weight[4:8].flatten() for block in model.blocks]
    assert roles["key"].take(joined).equal(torch.cat(keys))


def test_a_gpt_has_its_embeddings_by_name_and_a_tied_weight_once() -> None:
    roles = {group.name for group in by_role(by_parameter(tiny_gpt()))}
    assert {"token_embedding", "position_embedding", "head", "query"} <= roles
    tied = by_role(by_parameter(tiny_gpt(tied=True)))
    assert "head" not in {group.name for group in tied}
    assert sum(g.size for g in tied) == sum(p.numel() for p in tiny_gpt(tied=True).parameters())


def test_separate_projections_are_told_by_their_names() -> None:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.query, self.k_proj = nn.Linear(4, 4), nn.Linear(4, 4)
            self.qkv = nn.Linear(4, 8)  # not three of the inputs' width: not taken apart

    model = nn.Sequential()
    model.attention = Attention()
    model.head = nn.Linear(4, 2)
    roles = {group.name: group.role for group in by_parameter(model)}
    assert roles["attention.query.weight"] == "query"
    assert roles["attention.k_proj.weight"] == "key"
    assert roles["attention.qkv.weight"] == "attention_qkv"
    assert roles["attention.query.bias"] == "bias"


def test_put_is_the_transpose_of_take() -> None:
    group = Group("g", "g", ((1, 3), (5, 6)))
    assert group.size == 3
    joined = group.put(torch.tensor([7.0, 8.0, 9.0]), 7)
    assert joined.tolist() == [0, 7, 8, 0, 0, 9, 0]
    assert group.take(joined).tolist() == [7, 8, 9]
    assert group.take(torch.stack([joined, 2 * joined])).shape == (2, 3)


DOUBLE = Settings(dtype=torch.float64)


class PlainNorm(nn.Module):
    """LayerNorm written out: jacrev of jacrev is silently wrong through torch's own."""

    def __init__(self, norm: nn.LayerNorm) -> None:
        super().__init__()
        self.weight, self.bias, self.eps = norm.weight, norm.bias, norm.eps

    def forward(self, x: Tensor) -> Tensor:
        centred = x - x.mean(dim=-1, keepdim=True)
        scale = (centred.square().mean(dim=-1, keepdim=True) + self.eps).rsqrt()
        return centred * scale * self.weight + self.bias


class PlainBatchNorm(nn.Module):
    """Train-mode BatchNorm of [B, C] written out, for the same reason."""

    def __init__(self, norm: nn.BatchNorm1d) -> None:
        super().__init__()
        self.weight, self.bias, self.eps = norm.weight, norm.bias, norm.eps

    def forward(self, x: Tensor) -> Tensor:
        centred = x - x.mean(dim=0)
        return centred * (centred.square().mean(dim=0) + self.eps).rsqrt() * self.weight + self.bias


def plain(model: nn.Module) -> nn.Module:
    """Return a copy in which every LayerNorm is written out."""
    model = copy.deepcopy(model)
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.LayerNorm):
            model.set_submodule(name, PlainNorm(module))
    return model


def reference(model: nn.Module, data: tuple[Tensor, Tensor], loss: Loss = cross_entropy) -> Tensor:
    """Return the Hessian [P, P], reverse over reverse mode by torch.func, one pass."""
    shapes = {name: p.shape for name, p in model.named_parameters()}
    joined = torch.cat([p.detach().flatten() for p in model.parameters()])

    def value(flat: Tensor) -> Tensor:
        parts = flat.split([shape.numel() for shape in shapes.values()])
        named = {n: part.view(s) for (n, s), part in zip(shapes.items(), parts, strict=True)}
        return loss(functional_call(model, named, (data[0],)), data[1])

    with sdpa_kernel(SDPBackend.MATH):
        return jacrev(jacrev(value))(joined).detach()


MODELS = {
    "relu": lambda: (tiny_vit(activation="relu"), images()),
    "gelu": lambda: (tiny_vit(activation="gelu", norm="pre"), images()),
    "gpt": lambda: (tiny_gpt(), tokens()),
    "tied": lambda: (tiny_gpt(tied=True), tokens()),
}


@pytest.mark.parametrize("name", list(MODELS))
def test_dense_hessian_of_transformers(name: str) -> None:
    model, data = MODELS[name]()
    found = dense_hessian(HessianProducts(model, cross_entropy, data, DOUBLE))
    expected = reference(plain(model.eval()), data)
    assert found.dtype == torch.float64 and found.abs().max() > 0.01
    torch.testing.assert_close(found, expected, atol=1e-10, rtol=1e-10)


def test_products_are_the_change_of_the_gradient() -> None:
    model, data = tiny_vit(activation="gelu"), images()
    products = HessianProducts(model, cross_entropy, data, DOUBLE)
    vector = torch.randn(products.size, dtype=torch.float64)
    (found,) = products(vector[None])

    def gradient(step: float) -> Tensor:
        with torch.no_grad():
            moved = nn.utils.parameters_to_vector(model.parameters()) + step * vector
            torch.nn.utils.vector_to_parameters(moved, other.parameters())
        return torch.cat(
            [g.flatten() for g in torch.autograd.grad(
                cross_entropy(other(data[0]), data[1]), list(other.parameters()))]
        )  # fmt: skip

    other = tiny_vit(activation="gelu").eval()
    differences = (gradient(1e-5) - gradient(-1e-5)) / 2e-5
    torch.testing.assert_close(found, differences, atol=1e-7, rtol=1e-6)


@pytest.mark.parametrize("microbatch", [5, 12])
def test_microbatches_change_nothing(microbatch: int) -> None:
    model, data = tiny_vit(), images()
    settings = Settings(dtype=torch.float64, microbatch=microbatch)
    products = HessianProducts(model, cross_entropy, data, settings)
    assert products.microbatches == -(-12 // microbatch)
    vectors = torch.randn(3, products.size, dtype=torch.float64)
    whole = HessianProducts(model, cross_entropy, data, DOUBLE)(vectors)
    torch.testing.assert_close(products(vectors), whole, atol=1e-13, rtol=1e-11)


def test_batch_norm_in_train_mode_couples_the_samples() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 3)).double()
    data = torch.randn(9, 4, dtype=torch.float64), torch.arange(9) % 3
    settings = Settings(dtype=torch.float64, mode="train")
    found = dense_hessian(HessianProducts(model, F.cross_entropy, data, settings))
    written_out = PlainBatchNorm(model[1])
    expected = reference(
        nn.Sequential(model[0], written_out, model[2], model[3]), data, F.cross_entropy
    )
    torch.testing.assert_close(found, expected, atol=1e-10, rtol=1e-10)


def test_a_least_squares_problem_by_hand() -> None:
    model = nn.Linear(3, 1, bias=True).double()
    x = torch.randn(7, 3, dtype=torch.float64)
    products = HessianProducts(model, lambda out, y: F.mse_loss(out[:, 0], y), (x, x[:, 0]), DOUBLE)
    design = torch.cat([x, torch.ones(7, 1, dtype=torch.float64)], dim=1)
    torch.testing.assert_close(dense_hessian(products), 2 * design.T @ design / 7)


def test_a_linear_loss_has_no_curvature_and_a_broken_network_is_refused() -> None:
    model = nn.Linear(3, 2).double()
    x = torch.randn(5, 3, dtype=torch.float64)
    flat = HessianProducts(model, lambda out, y: out.mean(), (x, x), DOUBLE)
    assert not dense_hessian(flat).any()
    with torch.no_grad():
        model.weight.fill_(float("nan"))
    broken = HessianProducts(model, lambda out, y: out.square().mean(), (x, x), DOUBLE)
    with pytest.raises(ValueError, match="the gradient is not finite"):
        broken(torch.ones(1, 8))


def test_parameters_that_the_loss_does_not_see_have_rows_of_zeros() -> None:
    torch.manual_seed(0)
    model, x = Half(), torch.randn(5, 4)
    labels = torch.tensor([0, 2, 1, 1, 0])
    whole = dense_hessian(HessianProducts(model, F.cross_entropy, (x, labels), DOUBLE))
    used = nn.Sequential(model.used)
    expected = dense_hessian(HessianProducts(used, F.cross_entropy, (x, labels), DOUBLE))
    torch.testing.assert_close(whole[:15, :15], expected)
    assert not whole[15:].any() and not whole[:, 15:].any()


def test_vectors_of_another_precision_are_taken() -> None:
    model, (x, labels) = nn.Linear(3, 3), points()
    products = HessianProducts(model, F.cross_entropy, (x, labels), Settings())
    vectors = torch.randn(2, products.size, dtype=torch.float64)
    found = products(vectors)
    assert found.dtype == torch.float32
    exact = HessianProducts(model, F.cross_entropy, (x, labels), DOUBLE)(vectors)
    torch.testing.assert_close(found.double(), exact, atol=1e-6, rtol=1e-5)


def test_a_function_without_a_second_derivative_is_refused() -> None:
    torch.manual_seed(0)
    x = torch.randn(5, 4).double()
    for model, loss in (
        (OnceDifferentiable(), lambda out, _: out.mean()),
        (nn.Linear(4, 3), lambda out, _: Square.apply(out).mean()),
    ):
        products = HessianProducts(model, loss, (x, x), DOUBLE)
        with pytest.raises(ValueError, match="has no second derivative"):
            products(torch.ones(1, products.size))


def points() -> tuple[Tensor, Tensor]:
    return torch.randn(10, 3), torch.arange(10) % 3


def test_progress_counts_every_product_and_the_network_is_left_alone() -> None:
    model, data = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3)), points()
    before = [parameter.clone() for parameter in model.parameters()]
    seen: list[tuple[int, int]] = []
    settings = Settings(dtype=torch.float32, microbatch=5)
    products = HessianProducts(model, cross_entropy, data, settings)
    found = dense_hessian(products, lambda done, total: seen.append((done, total)))
    assert found.dtype == torch.float32
    assert seen[-1] == (2 * products.size, 2 * products.size) and len(seen) == 2 * products.size
    assert all(p.equal(b) and p.grad is None
               for p, b in zip(model.parameters(), before, strict=True))  # fmt: skip
