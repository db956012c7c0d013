"""Networks by their real weight shapes, to time optimizers on; they are not run.

``resnet18`` and the other models of conf/model/ are built as they are. GPT-2's weights are listed
here: a step of an optimizer needs shapes and names, not a forward pass.
"""

from __future__ import annotations

import torch
from omegaconf import OmegaConf
from torch import nn

from bench import paths
from bench.build import ImageShape, build_model
from bench.errors import UserError, suggestion

_IMAGES = ImageShape(in_channels=3, num_classes=10, image_size=32)


def _gpt2(layers: int, width: int, vocabulary: int = 50257, positions: int = 1024) -> nn.Module:
    """GPT-2's parameters (Radford et al. 2019); query, key and value in one matrix, as there."""
    blocks = [
        nn.ModuleDict(
            {
                "norm1": nn.LayerNorm(width),
                "qkv": nn.Linear(width, 3 * width),
                "proj": nn.Linear(width, width),
                "norm2": nn.LayerNorm(width),
                "up": nn.Linear(width, 4 * width),
                "down": nn.Linear(4 * width, width),
            }
        )
        for _ in range(layers)
    ]
    model = nn.ModuleDict(
        {
            "tokens": nn.Embedding(vocabulary, width),
            "positions": nn.Embedding(positions, width),
            "blocks": nn.ModuleList(blocks),
            "norm": nn.LayerNorm(width),
            "head": nn.Linear(width, vocabulary, bias=False),
        }
    )
    model["head"].weight = model["tokens"].weight  # tied, as in GPT-2
    return model


_LISTED = {"gpt2_small": (12, 768), "gpt2_mini": (6, 384)}


def skeleton(name: str) -> nn.Module:
    """Return the network ``name`` on the meta device: shapes, names and module types.

    Raises:
        UserError: there is no such model.
    """
    files = {path.stem: path for path in (paths.conf_dir() / "model").glob("*.yaml")}
    with torch.device("meta"):
        if name in _LISTED:
            return _gpt2(*_LISTED[name])
        if name in files:
            options = OmegaConf.to_container(OmegaConf.load(files[name]))
            assert isinstance(options, dict)
            return build_model({str(key): value for key, value in options.items()}, _IMAGES)
    known = [*files, *_LISTED]
    raise UserError(f"model={name}: there is no such model; {suggestion(name, known)}")
