"""The pretrained ResNet-50: without network, its weights are those of a file."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch
from torch import nn

from bench.compat import ensure_torchvision
from bench.models import resnet
from bench.models.resnet import resnet50_imagenet

ensure_torchvision()
from torchvision.models import ResNet50_Weights, resnet50  # noqa: E402

NAME = ResNet50_Weights.IMAGENET1K_V1.url.rpartition("/")[2]


@pytest.fixture
def checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of torch hub."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


def test_it_is_torchvisions_own_network() -> None:
    with torch.device("meta"):
        ours, theirs = resnet50_imagenet(3, 1000, 224), resnet50()
    shapes = {name: p.shape for name, p in ours.state_dict().items()}
    assert shapes == {name: p.shape for name, p in theirs.state_dict().items()}
    count = sum(p.numel() for p in ours.parameters())
    assert count == ResNet50_Weights.IMAGENET1K_V1.meta["num_params"] == 25_557_032
    assert ours.conv1.stride == (2, 2) and isinstance(ours.maxpool, nn.MaxPool2d)


def test_absent_weights_are_refused_with_the_way_to_get_them(checkpoints: Path) -> None:
    with pytest.raises(ValueError, match=r"^resnet50_imagenet: no weights in ") as caught:
        resnet50_imagenet(3, 1000, 224)
    text = str(caught.value)
    assert "\n" not in text and str(checkpoints / NAME) in text
    assert f"wget -P {checkpoints} {ResNet50_Weights.IMAGENET1K_V1.url}" in text


def test_a_torn_download_is_refused(checkpoints: Path) -> None:
    (checkpoints / NAME).write_bytes(b"half a file")
    with pytest.raises(ValueError, match=r"are damaged; remove the file and get it") as caught:
        resnet50_imagenet(3, 1000, 224)
    assert "\n" not in str(caught.value) and str(checkpoints / NAME) in str(caught.value)


def test_weights_of_a_name_without_a_checksum_are_not_trusted(checkpoints: Path) -> None:
    torch.save(nn.Linear(2, 2).state_dict(), checkpoints / "linear.pth")
    with pytest.raises(ValueError, match="damaged"):
        resnet._load(nn.Linear(2, 2), "linear", "https://example.org/linear.pth")


def test_sound_weights_are_loaded_and_other_classes_get_a_new_head(
    checkpoints: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The published file is not here: another network's stands for it, under its own checksum."""
    torch.manual_seed(7)
    source = resnet50()
    torch.save(source.state_dict(), checkpoints / "weights")
    digits = hashlib.sha256((checkpoints / "weights").read_bytes()).hexdigest()[:8]
    (checkpoints / "weights").rename(checkpoints / f"resnet50-{digits}.pth")
    load = resnet._load
    monkeypatch.setattr(
        resnet,
        "_load",
        lambda model, name, url: load(model, name, url.replace("0676ba61", digits)),
    )
    model = resnet50_imagenet(3, 1000, 224)
    for name, value in source.state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name
    tuned = resnet50_imagenet(3, 7, 64)
    assert torch.equal(tuned.layer4[2].conv3.weight, source.layer4[2].conv3.weight)
    assert tuned.fc.weight.shape == (7, 2048)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((1, 1000, 224), "in_channels of resnet50_imagenet must be 3, not 1: use model=resnet50"),
        ((3, 0, 224), "num_classes of resnet50_imagenet must be an integer of 1 or more, not 0"),
        ((3, 1000, 0), "image_size of resnet50_imagenet"),
    ],
)
def test_impossible_arguments_are_refused(arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        resnet50_imagenet(*arguments)
