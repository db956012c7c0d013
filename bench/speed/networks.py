"""Networks of conf/model/ on random data of the right shape, ready to be measured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from omegaconf import OmegaConf
from torch import Tensor, nn

from bench import paths
from bench.build import ImageShape, Shape, attempt, build_model, taken_kinds
from bench.errors import UserError, suggestion
from bench.public_names import locate
from optimizers.partition import weight_layers

_CALIBRATION = 256  # samples from which BatchNorm takes its statistics


class Subject(NamedTuple):
    """A network in eval mode, a random batch, and the names of its weight matrices."""

    model: nn.Module
    batch: tuple[Tensor, Tensor]
    layers: list[str]


def subject(name: str, size: int, shapes: Sequence[Shape], device: torch.device) -> Subject:
    """Return the untrained network ``name`` with a batch of ``size`` samples, both seeded.

    Of ``shapes`` it gets the first of the kind that it takes. Images are float32 [B, C, H, H] with
    int64 [B]; tokens int64 [B, T] with int64 [B, T]. BatchNorm has statistics of such data.

    Raises:
        UserError: there is no such model, or it refuses the shape.
    """
    files = {path.stem: path for path in (paths.conf_dir() / "model").glob("*.yaml")}
    if name not in files:
        raise UserError(f"model={name}: there is no such model; {suggestion(name, [*files])}")
    stored = OmegaConf.to_container(OmegaConf.load(files[name]))
    assert isinstance(stored, dict)
    component: dict[str, Any] = {str(key): value for key, value in stored.items()}
    stream = torch.Generator().manual_seed(0)
    kinds = taken_kinds(locate(component["_target_"]))
    shape = next(shape for shape in shapes if type(shape) in kinds)
    if isinstance(shape, ImageShape):
        side = shape.image_size
        inputs = torch.randn(size, shape.in_channels, side, side, generator=stream)
        targets = torch.randint(0, shape.num_classes, (size,), generator=stream)
    else:
        positions = size, shape.context_length
        inputs = torch.randint(0, shape.vocab_size, positions, generator=stream)
        targets = torch.randint(0, shape.num_classes, positions, generator=stream)
    torch.manual_seed(0)
    model = attempt(f"model={name}", lambda: build_model(component, shape)).to(device)
    batch = inputs.to(device), targets.to(device)
    _calibrate(model, batch[0][:_CALIBRATION])
    return Subject(model.eval(), batch, list(weight_layers(model)))


@torch.no_grad()
def _calibrate(model: nn.Module, inputs: Tensor) -> None:
    """Give BatchNorm the statistics of ``inputs``; no layer then sees values that explode."""
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
    if norms:
        model.train()(inputs)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
