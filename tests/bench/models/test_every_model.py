"""What holds for each model in conf/model/: a new file there is tested without an edit here."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import nn

from bench import paths

FILES = sorted((paths.conf_dir() / "model").glob("*.yaml"))
every_model = pytest.mark.parametrize("path", FILES, ids=[path.stem for path in FILES])


def build(path: Path, channels: int = 1, classes: int = 10, size: int = 8) -> nn.Module:
    config = OmegaConf.load(path)
    model = instantiate(config, in_channels=channels, num_classes=classes, image_size=size)
    assert isinstance(model, nn.Module)
    return model


def test_the_three_of_them_are_there() -> None:
    assert {"mlp", "convnet", "resnet18"} <= {path.stem for path in FILES}


@every_model
@pytest.mark.parametrize(("channels", "size"), [(1, 8), (1, 28), (3, 32)])
def test_logits_for_every_dataset_without_memory(path: Path, channels: int, size: int) -> None:
    with torch.device("meta"):
        model = build(path, channels, 7, size)
    assert all(p.is_meta for p in model.parameters())
    inputs = torch.empty(2, channels, size, size, device="meta")
    assert model(inputs).shape == (2, 7)


@every_model
def test_initialisation_is_the_global_seed_and_nothing_else(path: Path) -> None:
    def weights(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return torch.cat([p.detach().flatten() for p in build(path).parameters()])

    first = weights(0)
    assert torch.equal(first, weights(0))
    assert not torch.equal(first, weights(1))


@every_model
def test_every_parameter_gets_a_finite_gradient(path: Path) -> None:
    torch.manual_seed(0)
    model = build(path)
    loss = nn.functional.cross_entropy(model(torch.randn(8, 1, 8, 8)), torch.arange(8))
    loss.backward()
    for name, parameter in model.named_parameters():
        gradient = parameter.grad
        assert gradient is not None and gradient.isfinite().all() and gradient.any(), name


@every_model
def test_samples_do_not_meet_in_evaluation(path: Path) -> None:
    torch.manual_seed(0)
    model = build(path).double().eval()
    inputs = torch.randn(4, 1, 8, 8, dtype=torch.float64)
    with torch.no_grad():
        together, alone = model(inputs), torch.cat([model(one[None]) for one in inputs])
    torch.testing.assert_close(together, alone, rtol=1e-9, atol=1e-12)
