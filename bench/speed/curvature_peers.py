"""The same curvature as ours by a plain script and by another library, on random data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from omegaconf import OmegaConf
from torch import Tensor, nn

from analysis.curvature_core.directions import Directions
from analysis.curvature_core.objective import (
    Batch,
    Objective,
    Settings,
    cross_entropy,
    exact_arithmetic,
)
from bench import files as paths
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


def plain_double_backward(
    model: nn.Module, batch: Batch, directions: Mapping[str, Directions], settings: Settings
) -> dict[str, Tensor]:
    """Return h[layer] [k] by two backward passes a direction, each time through a new graph.

    What a short script does: nothing is shared between directions. The same microbatches and
    arithmetic as of our engines.
    """
    objective = Objective(model, cross_entropy, batch, directions, settings, copies=6)
    curvatures = {}
    for layer, along in directions.items():
        weight = objective.weights[layer]
        h = torch.zeros(len(along), dtype=torch.float64)
        for k, (u, v) in enumerate(zip(along.left.T, along.right.T, strict=True)):
            direction = torch.outer(u, v).reshape(weight.shape).to(weight)
            for index in range(objective.microbatches):
                with objective.loss(index) as share:
                    (gradient,) = torch.autograd.grad(share, weight, create_graph=True)
                    (product,) = torch.autograd.grad((gradient * direction).sum(), weight)
                h[k] += float((product * direction).sum(dtype=torch.float64))
        curvatures[layer] = h
    return curvatures


class _MeanCrossEntropy(nn.Module):
    """The loss as a module with its kind of reduction, as curvlinops asks."""

    reduction = "mean"

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        return cross_entropy(logits, targets)


def curvlinops_hessian(
    model: nn.Module, batch: Batch, directions: Mapping[str, Directions], settings: Settings
) -> dict[str, Tensor]:
    """Return h[layer] [k] by curvlinops' HessianLinearOperator of each layer's weight.

    The same microbatches and arithmetic as of our engines; its check for determinism is off.

    """
    from curvlinops import HessianLinearOperator  # here, for it is no dependency

    objective = Objective(model, cross_entropy, batch, directions, settings, copies=6)
    parts = []
    for index in range(objective.microbatches):
        with objective.part(index) as part:
            parts.append(part)
    curvatures = {}
    for layer, along in directions.items():
        weight = objective.weights[layer]
        left, right = along.left.to(weight), along.right.to(weight)
        columns = torch.einsum("mk,nk->mnk", left, right).flatten(0, 1)
        with exact_arithmetic(objective.device, seed=0, autotune=settings.autotune):
            operator = HessianLinearOperator(
                objective.model,
                _MeanCrossEntropy(),
                [weight],
                parts,
                check_deterministic=False,
                num_data=objective.size,
            )
            products = operator @ columns
        curvatures[layer] = (columns.double() * products.detach().double()).sum(dim=0).cpu()
    return curvatures
