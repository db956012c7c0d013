"""The small convolutional network."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from bench.data.digits import load
from bench.models.convnet import ConvNet


def test_layer_names_and_shapes() -> None:
    model = ConvNet(3, 10, 32, width=8)
    shapes = {n: tuple(p.shape) for n, p in model.named_parameters() if p.ndim > 1}
    assert shapes == {
        "conv1.weight": (8, 3, 3, 3),
        "conv2.weight": (16, 8, 3, 3),
        "conv3.weight": (32, 16, 3, 3),
        "head.weight": (10, 32),
    }
    vectors = {n for n, p in model.named_parameters() if p.ndim == 1}
    norms = {f"norm{i}.{p}" for i in (1, 2, 3) for p in ("weight", "bias")}
    assert vectors == norms | {"head.bias"}


def test_forward_against_unfolded_convolutions_in_float64() -> None:
    """Convolutions as products with (out, in*kh*kw) matrices, norms and pools by hand."""
    torch.manual_seed(0)
    model = ConvNet(2, 5, 8, width=3).double().train()
    for norm in (model.norm1, model.norm2, model.norm3):
        torch.nn.init.normal_(norm.weight)
        torch.nn.init.normal_(norm.bias)
    features = inputs = torch.randn(4, 2, 8, 8, dtype=torch.float64)
    for position in (1, 2, 3):
        weight = getattr(model, f"conv{position}").weight.flatten(1)
        norm, side = getattr(model, f"norm{position}"), features.shape[-1]
        patches = F.unfold(features, 3, padding=1)
        features = (weight @ patches).reshape(4, -1, side, side)
        if position < 3:
            blocks = features.reshape(4, -1, side // 2, 2, side // 2, 2)
            features = blocks.amax(dim=(3, 5))
        mean = features.mean(dim=(0, 2, 3), keepdim=True)
        var = features.var(dim=(0, 2, 3), keepdim=True, correction=0)
        scale, shift = (v.reshape(1, -1, 1, 1) for v in (norm.weight, norm.bias))
        features = ((features - mean) / (var + norm.eps).sqrt() * scale + shift).clamp(min=0)
    expected = features.mean(dim=(2, 3)) @ model.head.weight.T + model.head.bias
    torch.testing.assert_close(model(inputs), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("size", [4, 7, 8, 28, 32, 64])
@pytest.mark.parametrize("channels", [1, 3])
def test_any_image_size_and_channel_count(size: int, channels: int) -> None:
    model = ConvNet(channels, 6, size, width=2).eval()
    assert model(torch.zeros(2, channels, size, size)).shape == (2, 6)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"width": 0}, "width of convnet must be an integer of 1 or more, not 0"),
        ({"width": 2.5}, "width of convnet"),
        ({"num_classes": 0}, "num_classes of convnet"),
        ({"in_channels": -3}, "in_channels of convnet"),
        ({"image_size": 3}, "4x4 pixels or more, not 3x3: use model=mlp"),
    ],
)
def test_impossible_options_are_refused_in_one_line(options: dict, expected: str) -> None:
    arguments = {"in_channels": 1, "num_classes": 10, "image_size": 8} | options
    with pytest.raises(ValueError, match=expected) as caught:
        ConvNet(**arguments)
    assert "\n" not in str(caught.value)


def test_it_learns_the_digits() -> None:
    """At least 97 % of the test images after 12 epochs of AdamW."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # so small a model only loses time between threads
    try:
        data = load(Path(), 0)
        torch.manual_seed(0)
        model = ConvNet(**data.shape._asdict())
        optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 12)
        for epoch in range(12):
            for inputs, labels in data.train_batches(0, epoch, 64):
                optimizer.zero_grad()
                F.cross_entropy(model(inputs), labels).backward()
                optimizer.step()
            schedule.step()
        model.eval()
        with torch.no_grad():
            right = sum(
                int((model(x).argmax(1) == y).sum()) for x, y in data.eval_batches("test", 512)
            )
    finally:
        torch.set_num_threads(threads)
    assert right / len(data.test) >= 0.97
