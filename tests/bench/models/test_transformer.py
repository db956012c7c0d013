"""The transformer block: forward, fused attention, and the path with two derivatives."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, hessian, jvp, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode

from bench.models.transformer import BlockOptions
from bench.models.vit import ViT
from optimizers.partition import weight_layers

ACTIVATIONS = {"gelu": nn.GELU(), "gelu_tanh": nn.GELU("tanh"), "relu": nn.ReLU()}
DEFAULTS: dict[str, Any] = {
    "dim": 8,
    "heads": 2,
    "mlp_ratio": 3,
    "norm": "pre",
    "layer_norm": True,
    "activation": "gelu",
    "dropout": 0.0,
}


def options(**changed: Any) -> BlockOptions:
    return BlockOptions(**(DEFAULTS | changed))


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("norm", ["pre", "post"])
def test_forward_against_torchs_own_layer(
    norm: str,
    activation: str,
    causal: bool,
    reference_blocks: Callable[..., Tensor],
    randomise: Callable[[nn.Module], nn.Module],
) -> None:
    blocks = options(norm=norm, activation=activation).blocks(2, causal)
    randomise(blocks)
    tokens = start = torch.randn(3, 5, 8, dtype=torch.float64)
    for block in blocks:
        tokens = block(tokens)
    expected = reference_blocks(blocks, start, norm, ACTIVATIONS[activation], causal)
    torch.testing.assert_close(tokens, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_without_layer_norm_a_block_is_two_residual_sums(
    norm: str, randomise: Callable[[nn.Module], nn.Module]
) -> None:
    (block,) = randomise(options(norm=norm, layer_norm=False).blocks(1, causal=False))
    assert not [m for m in block.modules() if isinstance(m, nn.LayerNorm)]
    tokens = torch.randn(2, 4, 8, dtype=torch.float64)
    middle = tokens + block.attention(tokens)
    torch.testing.assert_close(block(tokens), middle + block.mlp(middle))


def test_names_and_shapes() -> None:
    (block,) = options().blocks(1, causal=False)
    assert {name: tuple(p.shape) for name, p in block.named_parameters()} == {
        "norm1.weight": (8,),
        "norm1.bias": (8,),
        "attention.qkv.weight": (24, 8),
        "attention.qkv.bias": (24,),
        "attention.output.weight": (8, 8),
        "attention.output.bias": (8,),
        "norm2.weight": (8,),
        "norm2.bias": (8,),
        "mlp.up.weight": (24, 8),
        "mlp.up.bias": (24,),
        "mlp.down.weight": (8, 24),
        "mlp.down.bias": (8,),
    }


def test_a_causal_token_does_not_see_later_ones() -> None:
    torch.manual_seed(0)
    tokens = torch.randn(1, 6, 8, requires_grad=True)
    for causal in (True, False):
        (block,) = options().blocks(1, causal)
        (seen,) = torch.autograd.grad(block(tokens)[0, 3].sum(), tokens)
        assert [bool(gradient.any()) for gradient in seen[0]] == [True] * 4 + [not causal] * 2


@pytest.mark.parametrize("norm", ["pre", "post"])
@pytest.mark.parametrize("branch", ["attention", "mlp"])
def test_dropout_acts_on_each_branch_in_training_only(branch: str, norm: str) -> None:
    torch.manual_seed(0)
    (block,) = options(norm=norm, layer_norm=False, dropout=0.5).blocks(1, causal=False)
    other = block.mlp.down if branch == "attention" else block.attention.output
    nn.init.zeros_(other.weight)
    nn.init.zeros_(other.bias)
    tokens = torch.randn(64, 4, 8)
    dropped = (block(tokens) == tokens).float().mean().item()
    assert dropped == pytest.approx(0.5, abs=0.05)
    assert not (block.eval()(tokens) == tokens).any()


def test_dropout_of_attention_weights() -> None:
    torch.manual_seed(0)
    attention = options(dropout=0.5).blocks(1, causal=False)[0].attention
    tokens = torch.randn(2, 4, 8)
    assert not torch.equal(attention(tokens), attention(tokens))
    attention.eval()
    torch.testing.assert_close(attention(tokens), attention(tokens))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"dim": 0}, "dim of net must be an integer of 1 or more, not 0"),
        ({"heads": 0}, "heads of net"),
        ({"heads": 3}, "heads of net must divide dim: 3 does not divide 8"),
        ({"mlp_ratio": 0.5}, "mlp_ratio of net"),
        ({"norm": "none"}, "norm of net must be pre or post, not none"),
        ({"activation": "silu"}, "activation of net must be gelu or gelu_tanh or relu, not silu"),
        ({"dropout": 1.0}, "dropout of net must be from 0 to below 1, not 1.0"),
    ],
)
def test_impossible_options_are_refused(changed: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        options(**changed).check("net")


class Operations(TorchDispatchMode):
    """Remembers the names of the operations that run inside."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        self.names.add(str(func))
        return func(*args, **(kwargs or {}))


def test_training_runs_a_fused_kernel_and_the_other_path_does_not() -> None:
    (block,) = options().blocks(1, causal=True)
    tokens = torch.randn(2, 16, 8)
    with Operations() as fused:
        block(tokens).sum().backward()
    assert any("flash_attention" in name for name in fused.names)
    assert not any("_softmax" in name for name in fused.names)
    with sdpa_kernel(SDPBackend.MATH), Operations() as exact:
        block(tokens).sum().backward()
    assert any("_softmax" in name for name in exact.names)
    assert not any("flash_attention" in name for name in exact.names)


# --- two derivatives ---


def explicit_loss(
    weights: dict[str, Tensor], images: Tensor, labels: Tensor, norm: str, activation: str
) -> Tensor:
    """Cross-entropy of a one-block, one-head ViT written out: products, exp and sums only."""
    w = weights

    def linear(name: str, x: Tensor) -> Tensor:
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    def layer_norm(name: str, x: Tensor) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        scaled = centred / ((centred**2).mean(-1, keepdim=True) + 1e-5).sqrt()
        return scaled * w[f"{name}.weight"] + w[f"{name}.bias"]

    def softmax(x: Tensor) -> Tensor:
        powers = (x - x.amax(-1, keepdim=True).detach()).exp()
        return powers / powers.sum(-1, keepdim=True)

    def attend(x: Tensor) -> Tensor:
        query, key, value = linear("blocks.0.attention.qkv", x).chunk(3, -1)
        scores = query @ key.transpose(1, 2) / query.shape[-1] ** 0.5
        return linear("blocks.0.attention.output", softmax(scores) @ value)

    def feed(x: Tensor) -> Tensor:
        hidden = linear("blocks.0.mlp.up", x)
        if activation == "relu":
            hidden = hidden * (hidden > 0)
        else:
            hidden = hidden * (1 + torch.erf(hidden / 2**0.5)) / 2
        return linear("blocks.0.mlp.down", hidden)

    patch = w["patch_embedding.weight"]
    side, stride = images.shape[-1], patch.shape[-1]
    places = itertools.product(range(0, side, stride), repeat=2)
    patches = torch.stack(
        [images[:, :, i : i + stride, j : j + stride].flatten(1) for i, j in places], 1
    )
    x = patches @ patch.flatten(1).T + w["patch_embedding.bias"] + w["position_embedding"]
    if norm == "pre":
        x = x + attend(layer_norm("blocks.0.norm1", x))
        x = layer_norm("norm", x + feed(layer_norm("blocks.0.norm2", x)))
    else:
        x = layer_norm("blocks.0.norm1", x + attend(x))
        x = layer_norm("blocks.0.norm2", x + feed(x))
    logits = linear("head", x.mean(1))
    probabilities = softmax(logits).gather(1, labels[:, None])
    return -probabilities.log().mean()


@pytest.fixture(params=[("pre", "gelu"), ("post", "relu")], ids="-".join)
def micro(request: pytest.FixtureRequest) -> tuple[ViT, Tensor, Tensor, str, str]:
    """vit_micro's design at width 6, with a batch of 4 images."""
    norm, activation = request.param
    torch.manual_seed(0)
    model = ViT(
        *(1, 3, 4), patch_size=2, dim=6, layers=1, heads=1, norm=norm, activation=activation
    ).double()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.5)
    images = torch.randn(4, 1, 4, 4, dtype=torch.float64)
    return model, images, torch.tensor([0, 1, 2, 1]), norm, activation


def test_double_backward_is_the_dense_hessian(
    micro: tuple[ViT, Tensor, Tensor, str, str],
) -> None:
    """Each layer's Hessian, against forward over reverse through explicit products."""
    model, images, labels, norm, activation = micro
    layers = weight_layers(model)
    assert list(layers) == [
        "patch_embedding",
        "blocks.0.attention.qkv",
        "blocks.0.attention.output",
        "blocks.0.mlp.up",
        "blocks.0.mlp.down",
        "head",
    ]
    fixed = {name: p.detach() for name, p in model.named_parameters()}
    with sdpa_kernel(SDPBackend.MATH):
        loss = nn.functional.cross_entropy(model(images), labels)
        gradients = torch.autograd.grad(loss, list(layers.values()), create_graph=True)
        for (layer, weight), gradient in zip(layers.items(), gradients, strict=True):
            name = f"{layer}.weight"

            def of_one(value: Tensor, name: str = name) -> Tensor:
                return explicit_loss(fixed | {name: value}, images, labels, norm, activation)

            torch.testing.assert_close(loss.detach(), of_one(fixed[name]), rtol=1e-11, atol=0)
            dense = hessian(of_one)(fixed[name]).reshape(weight.numel(), weight.numel())
            rows = torch.autograd.grad(
                gradient,
                weight,
                torch.eye(weight.numel(), dtype=torch.float64).reshape(-1, *weight.shape),
                retain_graph=True,
                is_grads_batched=True,
            )[0]
            assert dense.norm() > 1e-6
            torch.testing.assert_close(
                rows.reshape_as(dense), dense, rtol=1e-8, atol=1e-10 * float(dense.norm())
            )


def test_forward_over_reverse_and_per_sample_gradients(
    micro: tuple[ViT, Tensor, Tensor, str, str],
) -> None:
    model, images, labels, norm, activation = micro
    weights = {name: p.detach() for name, p in model.named_parameters()}
    directions = {name: torch.randn_like(p) for name, p in weights.items()}

    def loss(values: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return nn.functional.cross_entropy(functional_call(model, values, (x,)), y)

    def explicit(values: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return explicit_loss(values, x, y, norm, activation)

    products = []
    for function in (loss, explicit):
        with sdpa_kernel(SDPBackend.MATH):
            at = lambda values, f=function: grad(f)(values, images, labels)  # noqa: E731
            products.append(jvp(at, (weights,), (directions,))[1])
    torch.testing.assert_close(products[0], products[1], rtol=1e-8, atol=1e-10)

    with sdpa_kernel(SDPBackend.MATH):
        one_each = vmap(grad(loss), in_dims=(None, 0, 0))(weights, images[:, None], labels[:, None])
        for sample in range(len(images)):
            alone = grad(explicit)(weights, images[sample, None], labels[sample, None])
            for name, gradient in alone.items():
                torch.testing.assert_close(one_each[name][sample], gradient)
