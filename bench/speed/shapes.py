"""Networks by their real weight shapes, to time optimizers on; they are not run."""

from __future__ import annotations

from typing import Any, cast

import torch
from omegaconf import OmegaConf
from torch import nn

from bench import paths
from bench.build import ImageShape, Shape, TokenShape, build_model, taken_kinds
from bench.errors import UserError, suggestion
from bench.public_names import locate

# CIFAR-10's shape, and what GPT-2 was trained on.
_SHAPES: dict[type[Shape], Shape] = {
    ImageShape: ImageShape(in_channels=3, num_classes=10, image_size=32),
    TokenShape: TokenShape(vocab_size=50257, context_length=1024, num_classes=50257),
}


def skeleton(name: str) -> nn.Module:
    """Return the network of conf/model/``name``.yaml on the meta device: shapes without values.

    Raises:
        UserError: there is no such model.
    """
    files = {path.stem: path for path in (paths.conf_dir() / "model").glob("*.yaml")}
    if name not in files:
        raise UserError(f"model={name}: there is no such model; {suggestion(name, list(files))}")
    component = cast("dict[str, Any]", OmegaConf.to_container(OmegaConf.load(files[name])))
    kind = taken_kinds(locate(component["_target_"]))[0]
    with torch.device("meta"):
        return build_model(component, _SHAPES[kind])
