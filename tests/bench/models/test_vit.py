"""The vision transformer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from omegaconf import OmegaConf
from torch import Tensor, nn

from bench import files
from bench.compat import ensure_torchvision
from bench.models.vit import ViT


def options(name: str) -> dict:
    path: Path = files.conf_dir() / "model" / f"{name}.yaml"
    own = dict(OmegaConf.load(path))
    own.pop("_target_")
    return own


def count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(("size", "patch", "classes"), [(32, 4, 10), (64, 8, 200), (224, 16, 1000)])
def test_as_many_parameters_as_torchvisions_but_for_the_class_token(
    size: int, patch: int, classes: int
) -> None:
    """One token less: its vector and its position."""
    ensure_torchvision()
    from torchvision.models import VisionTransformer

    with torch.device("meta"):
        ours = ViT(3, classes, size, **options("vit_tiny") | {"patch_size": patch})
        theirs = VisionTransformer(size, patch, 12, 3, 192, 768, num_classes=classes)
    assert count(ours) == count(theirs) - 2 * 192
    if size == 224:
        assert count(theirs) == 5_717_416  # DeiT-Ti, Touvron et al. 2021: 5.7 million


def test_vit_tiny_is_the_default() -> None:
    with torch.device("meta"):
        assert count(ViT(3, 10, 32)) == count(ViT(3, 10, 32, **options("vit_tiny"))) == 5_362_378


@pytest.mark.parametrize(("channels", "size"), [(1, 8), (1, 28), (3, 32)])
def test_the_hessian_of_vit_micro_fits_in_memory(channels: int, size: int) -> None:
    """A block of width d has 12 d^2 + 13 d parameters; a few thousand in all."""
    d = 16
    embedding = 16 * channels * d + d + (size // 4) ** 2 * d
    with torch.device("meta"):
        found = count(ViT(channels, 10, size, **options("vit_micro")))
    assert found == embedding + 12 * d**2 + 13 * d + 10 * d + 10 < 6000


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_forward_against_torchs_layers_in_float64(
    norm: str,
    reference_blocks: Callable[..., Tensor],
    randomise: Callable[[nn.Module], nn.Module],
) -> None:
    model = ViT(2, 5, 6, patch_size=3, dim=8, layers=2, heads=2, norm=norm)
    randomise(model).eval()
    images = torch.randn(4, 2, 6, 6, dtype=torch.float64)
    patches = F.unfold(images, 3, stride=3).transpose(1, 2)
    tokens = patches @ model.patch_embedding.weight.flatten(1).T + model.patch_embedding.bias
    tokens = tokens + model.position_embedding
    tokens = reference_blocks(model.blocks, tokens, norm, nn.GELU(), causal=False)
    if norm == "pre":
        tokens = F.layer_norm(tokens, (8,), model.norm.weight, model.norm.bias)
    else:
        assert isinstance(model.norm, nn.Identity)
    expected = tokens.mean(1) @ model.head.weight.T + model.head.bias
    torch.testing.assert_close(model(images), expected, rtol=1e-10, atol=1e-12)


def test_layer_names() -> None:
    model = ViT(1, 10, 8, **options("vit_micro"))
    assert [name for name, p in model.named_parameters() if p.ndim > 1] == [
        "position_embedding",
        "patch_embedding.weight",
        "blocks.0.attention.qkv.weight",
        "blocks.0.attention.output.weight",
        "blocks.0.mlp.up.weight",
        "blocks.0.mlp.down.weight",
        "head.weight",
    ]
    assert "norm.weight" not in dict(model.named_parameters())
    assert "norm.weight" in dict(ViT(1, 10, 8, dim=6).named_parameters())
    assert not any("norm" in n for n, _ in ViT(1, 10, 8, layer_norm=False).named_parameters())


def test_what_a_config_chooses_reaches_the_blocks() -> None:
    model = ViT(1, 10, 8, dim=8, heads=2, layers=3, mlp_ratio=2, activation="relu", dropout=0.25)
    assert len(model.blocks) == 3
    for block in model.blocks:
        assert isinstance(block.mlp.activation, nn.ReLU)
        assert (block.attention.heads, block.mlp.up.out_features) == (2, 16)
        assert not block.attention.causal
    rates = {m.p for m in model.modules() if isinstance(m, nn.Dropout)}
    assert rates == {0.25} == {block.attention.dropout for block in model.blocks}


def test_dropout_of_the_embedded_patches() -> None:
    torch.manual_seed(0)
    model = ViT(1, 10, 8, dim=6, dropout=0.5)
    seen: list[Tensor] = []
    model.blocks[0].register_forward_pre_hook(lambda _m, inputs: seen.append(inputs[0]))
    model(torch.randn(64, 1, 8, 8))
    assert (seen[0] == 0).float().mean().item() == pytest.approx(0.5, abs=0.05)


def test_initial_scale() -> None:
    """Xavier uniform of each of queries, keys and values: std 1 / sqrt(dim)."""
    torch.manual_seed(0)
    model = ViT(3, 10, 32)
    block = model.blocks[5]
    expected = {
        "attention.qkv": (1 / 192) ** 0.5,
        "attention.output": (1 / 192) ** 0.5,
        "mlp.up": (2 / (5 * 192)) ** 0.5,
        "mlp.down": (2 / (5 * 192)) ** 0.5,
    }
    for name, std in expected.items():
        weight = block.get_parameter(f"{name}.weight")
        assert weight.std().item() == pytest.approx(std, rel=0.02), name
        assert weight.abs().max().item() <= 3**0.5 * std * 1.0001  # uniform
    assert model.patch_embedding.weight.std().item() == pytest.approx(48**-0.5, rel=0.05)
    assert model.position_embedding.std().item() == pytest.approx(0.02, rel=0.05)
    assert model.head.weight.std().item() == pytest.approx(0.02, rel=0.1)
    biases = [p for name, p in model.named_parameters() if name.endswith("bias")]
    assert len(biases) == 12 * 6 + 3 and not any(bias.any() for bias in biases)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"in_channels": 0}, "in_channels of vit must be an integer of 1 or more, not 0"),
        ({"num_classes": 0}, "num_classes of vit"),
        ({"image_size": 0}, "image_size of vit"),
        ({"layers": 0}, "layers of vit"),
        ({"patch_size": 0}, "patch_size of vit"),
        ({"patch_size": 5}, "patch_size of vit must divide image_size: 5 does not divide 8"),
        ({"heads": 5}, "heads of vit must divide dim: 5 does not divide 192"),
    ],
)
def test_impossible_options_are_refused_in_one_line(changed: dict, message: str) -> None:
    arguments = {"in_channels": 1, "num_classes": 10, "image_size": 8} | changed
    with pytest.raises(ValueError, match=message) as caught:
        ViT(**arguments)
    assert "\n" not in str(caught.value)
