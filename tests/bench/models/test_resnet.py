"""ResNet-18 with the CIFAR stem."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from bench.models.resnet import resnet18, resnet50


def count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def build(channels: int = 3, classes: int = 10) -> nn.Module:
    with torch.device("meta"):
        return resnet18(channels, classes, 32)


def test_parameter_counts() -> None:
    assert count(build()) == 11_173_962
    assert count(build(channels=1)) == 11_173_962 - 64 * 2 * 9
    assert count(build(classes=100)) == 11_173_962 + 90 * 513


def test_resnet50_has_the_same_stem_and_its_own_size() -> None:
    with torch.device("meta"):
        model = resnet50(3, 10, 32)
    assert count(model) == 23_520_842
    assert tuple(model.conv1.weight.shape) == (64, 3, 3, 3)  # type: ignore[union-attr]
    assert isinstance(model.maxpool, nn.Identity)
    with pytest.raises(ValueError, match="in_channels of resnet50 must be 1 or 3, not 2"):
        resnet50(2, 10, 32)


@pytest.mark.parametrize("channels", [1, 3])
def test_stem_keeps_the_resolution(channels: int) -> None:
    model = build(channels)
    stem = model.conv1
    assert isinstance(stem, nn.Conv2d) and tuple(stem.weight.shape) == (64, channels, 3, 3)
    assert (stem.stride, stem.padding, stem.bias) == ((1, 1), (1, 1), None)
    assert isinstance(model.maxpool, nn.Identity)
    sizes: dict[str, tuple[int, ...]] = {}
    for name in ("conv1", "layer1", "layer2", "layer3", "layer4"):
        getattr(model, name).register_forward_hook(
            lambda _m, _i, output, name=name: sizes.update({name: tuple(output.shape[1:])})
        )
    assert model(torch.empty(2, channels, 32, 32, device="meta")).shape == (2, 10)
    assert sizes == {
        "conv1": (64, 32, 32),
        "layer1": (64, 32, 32),
        "layer2": (128, 16, 16),
        "layer3": (256, 8, 8),
        "layer4": (512, 4, 4),
    }


def test_layer_names_are_those_of_torchvision() -> None:
    names = {name for name, _ in build().named_modules()}
    assert {
        "conv1",
        "bn1",
        "layer1.0.conv1",
        "layer2.0.downsample.0",
        "layer4.1.bn2",
        "fc",
    } <= names


def test_stem_is_initialised_as_the_other_convolutions() -> None:
    """Kaiming normal over fan-out: std = sqrt(2 / (64 * 9)); 1,728 draws give it to 10 %."""
    torch.manual_seed(0)
    weight = resnet18(3, 10, 32).conv1.weight
    assert weight.std().item() == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.1)
    assert abs(weight.mean().item()) < 0.007  # five standard errors


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((2, 10, 32), "in_channels of resnet18 must be 1 or 3, not 2"),
        ((3, 0, 32), "num_classes of resnet18 must be an integer of 1 or more, not 0"),
        ((3, 10, 0), "image_size of resnet18"),
    ],
)
def test_impossible_arguments_are_refused(arguments: tuple[int, int, int], expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        resnet18(*arguments)
