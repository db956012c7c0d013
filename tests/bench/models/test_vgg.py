"""VGG-11 and VGG-16 for small images."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from bench.compat import ensure_torchvision
from bench.models.vgg import vgg11, vgg16

ensure_torchvision()
from torchvision.models import vgg  # noqa: E402

CONVOLUTIONS_11 = [64, 128, 256, 256, 512, 512, 512, 512]  # Simonyan & Zisserman 2015, table 1
CONVOLUTIONS_16 = [64, 64, 128, 128, 256, 256, 256, *[512] * 6]


def count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def expected(outputs: list[int], channels: int, classes: int, side: int) -> int:
    """Parameters by hand: 3x3 kernels and biases, 512 side^2 -> 512 -> classes."""
    inputs = [channels, *outputs]
    body = sum(9 * i * o + o for i, o in zip(inputs, outputs, strict=False))
    return body + (512 * side**2 + 1) * 512 + 513 * classes


@pytest.mark.parametrize(
    ("build", "outputs"), [(vgg11, CONVOLUTIONS_11), (vgg16, CONVOLUTIONS_16)], ids=["11", "16"]
)
def test_parameter_counts(build, outputs) -> None:
    with torch.device("meta"):
        assert count(build(3, 10, 32, batch_norm=False)) == expected(outputs, 3, 10, 1)
        norms = 2 * sum(outputs)
        assert count(build(3, 10, 32)) == expected(outputs, 3, 10, 1) + norms
        assert count(build(3, 200, 64)) == expected(outputs, 3, 200, 2) + norms
        assert count(build(1, 10, 28)) == expected(outputs, 1, 10, 1) + norms


def test_the_counts_in_the_docstrings() -> None:
    for build, outputs in ((vgg11, CONVOLUTIONS_11), (vgg16, CONVOLUTIONS_16)):
        for channels, classes, size in ((3, 10, 32), (3, 200, 64)):
            total = expected(outputs, channels, classes, size // 32) + 2 * sum(outputs)
            assert f" {total:,} " in str(build.__doc__)


@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize(
    ("build", "published"),
    [(vgg11, ("vgg11", "vgg11_bn")), (vgg16, ("vgg16", "vgg16_bn"))],
    ids=["11", "16"],
)
def test_the_body_is_torchvisions(build, published, batch_norm: bool) -> None:
    with torch.device("meta"):
        theirs = getattr(vgg, published[batch_norm])(init_weights=False)
    torch.manual_seed(0)
    ours = build(3, 10, 64, batch_norm=batch_norm).double().eval()
    own = {n: p.shape for n, p in ours.features.named_parameters()}
    assert own == {n: p.shape for n, p in theirs.features.named_parameters()}
    theirs = theirs.to_empty(device="cpu").double().eval()
    theirs.features.load_state_dict(ours.features.state_dict())
    inputs = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(ours.features(inputs), theirs.features(inputs))


@pytest.mark.parametrize(
    ("batch_norm", "places"),
    [(False, (0, 3, 6, 8, 11, 13, 16, 18)), (True, (0, 4, 8, 11, 15, 18, 22, 25))],
)
def test_layer_names(batch_norm: bool, places: tuple[int, ...]) -> None:
    """Those of the study: features.N, classifier.0 and classifier.3."""
    with torch.device("meta"):
        model = vgg11(3, 10, 32, batch_norm=batch_norm)
    assert [n for n, p in model.named_parameters() if p.ndim > 1] == [
        *(f"features.{place}.weight" for place in places),
        "classifier.0.weight",
        "classifier.3.weight",
    ]


@pytest.mark.parametrize(("size", "side"), [(1, 1), (8, 1), (28, 1), (32, 1), (33, 2), (64, 2)])
def test_any_image_size_reaches_the_head(size: int, side: int) -> None:
    with torch.device("meta"):
        model = vgg11(3, 10, size, head_width=64)
        assert model.features(torch.empty(2, 3, size, size)).shape == (2, 512, side, side)
        assert model(torch.empty(2, 3, size, size)).shape == (2, 10)
    assert model.classifier[0].weight.shape == (64, 512 * side**2)


@pytest.mark.parametrize("channels", [1, 3])
def test_initialised_as_torchvision_does(channels: int) -> None:
    """Kaiming normal over fan-out (std sqrt(2 / 9 out)), Linear of std 0.01, biases zero."""
    torch.manual_seed(0)
    model = vgg11(channels, 10, 32, batch_norm=False)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            assert not parameter.any()
        else:
            conv = parameter.ndim == 4
            std = (2 / (9 * parameter.shape[0])) ** 0.5 if conv else 0.01
            tolerance = 5 / (2 * parameter.numel()) ** 0.5  # five standard errors
            assert parameter.std().item() == pytest.approx(std, rel=tolerance), name


def test_dropout_is_off_unless_asked_for() -> None:
    with torch.device("meta"):
        models = vgg11(3, 10, 32), vgg16(3, 10, 32), vgg16(3, 10, 32, dropout=0.5)
    rates = [[m.p for m in model.modules() if isinstance(m, nn.Dropout)] for model in models]
    assert rates == [[0.0], [0.0], [0.5]]


@pytest.mark.parametrize("build", [vgg11, vgg16])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"in_channels": 0}, "in_channels of vgg1. must be an integer of 1 or more, not 0"),
        ({"num_classes": 0}, "num_classes of vgg1."),
        ({"image_size": 0}, "image_size of vgg1."),
        ({"head_width": 0}, "head_width of vgg1."),
        ({"dropout": 1.0}, "dropout of vgg1. must be from 0 to below 1, not 1.0"),
    ],
)
def test_impossible_options_are_refused_in_one_line(build, options: dict, message: str) -> None:
    arguments = {"in_channels": 3, "num_classes": 10, "image_size": 32} | options
    with pytest.raises(ValueError, match=message) as caught:
        build(**arguments)
    assert "\n" not in str(caught.value)
    assert build.__name__ in str(caught.value)
