"""Small networks and exponents files that the optimizers' tests share."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from contract import FILES, content, missing_extra
from omegaconf import OmegaConf
from torch import Tensor, nn

from bench.build import build_optimizer
from optimizers.partition import weight_layers


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Matrices this small only lose time to threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class SmallConvNet(nn.Module):
    """Two convolutions (one grouped), a norm, a hidden Linear, a head, and a free parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(2, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.conv2 = nn.Conv2d(4, 6, 3, stride=2, groups=2, bias=False)
        self.hidden = nn.Linear(6, 8)
        self.head = nn.Linear(8, 3)
        self.temperature = nn.Parameter(torch.ones(()))

    def forward(self, inputs: Tensor) -> Tensor:
        features = torch.relu(self.conv2(torch.relu(self.norm(self.conv1(inputs)))))
        hidden = torch.relu(self.hidden(features.mean((2, 3))))
        return self.head(hidden) * self.temperature


class SmallTransformer(nn.Module):
    """One encoder block on 5 tokens, token and position embeddings, and a head."""

    def __init__(self, tied: bool = False) -> None:
        super().__init__()
        self.tokens = nn.Embedding(11, 8)
        self.pos_embed = nn.Parameter(torch.zeros(5, 8))
        self.block = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
        self.head = nn.Linear(8, 11, bias=False)
        if tied:
            self.head.weight = self.tokens.weight

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(self.block(self.tokens(inputs) + self.pos_embed).mean(1))


class Problem:
    """A network and one fixed batch of a learnable task."""

    def __init__(self, model: nn.Module, inputs: Tensor, labels: Tensor) -> None:
        self.model, self.inputs, self.labels = model, inputs, labels

    def to(self, device: str) -> Problem:
        return Problem(self.model.to(device), self.inputs.to(device), self.labels.to(device))

    def loss(self) -> Tensor:
        return nn.functional.cross_entropy(self.model(self.inputs).float(), self.labels)

    def gradients(self) -> float:
        """Compute the gradients and return the loss."""
        self.model.zero_grad()
        loss = self.loss()
        loss.backward()
        return loss.item()

    def weights(self) -> dict[str, Tensor]:
        return {name: p.detach().clone() for name, p in self.model.named_parameters()}


def _conv_problem(dtype: torch.dtype) -> Problem:
    torch.manual_seed(0)
    model = SmallConvNet().to(dtype)
    labels = torch.arange(12) % 3
    inputs = torch.randn(12, 2, 6, 6) + labels[:, None, None, None]
    return Problem(model, inputs.to(dtype), labels)


def _transformer_problem(dtype: torch.dtype) -> Problem:
    torch.manual_seed(0)
    model = SmallTransformer().to(dtype)
    inputs = torch.randint(11, (12, 5))
    return Problem(model, inputs, inputs[:, 0])


_PROBLEMS = {"conv": _conv_problem, "transformer": _transformer_problem}


@pytest.fixture
def conv_net() -> type[nn.Module]:
    return SmallConvNet


@pytest.fixture
def transformer() -> type[nn.Module]:
    return SmallTransformer


@pytest.fixture(params=sorted(_PROBLEMS))
def make_problem(request: pytest.FixtureRequest) -> Callable[..., Problem]:
    """A function from dtype and device to a problem: the same one on every call."""
    return lambda dtype=torch.float32, device="cpu": _PROBLEMS[request.param](dtype).to(device)


@pytest.fixture
def conv_problem() -> Callable[..., Problem]:
    """As ``make_problem``, of the convolutional network only."""
    return lambda dtype=torch.float32: _conv_problem(dtype)


@pytest.fixture
def write_exponents(tmp_path: Path) -> Callable[..., Path]:
    """Write rows of an exponents file; what a row leaves out gets an ordinary value."""

    def write(rows: Iterable[dict[str, Any]], drop: tuple[str, ...] = ()) -> Path:
        ordinary = {
            "layer_type": "conv",
            "alpha": 2.0,
            "gamma": 1.0,
            "s": 2.0,
            "reliable": True,
            "step": 10,
            "epoch": 1.0,
        }
        full = [{**ordinary, **row} for row in rows]
        kept = [{k: v for k, v in row.items() if k not in drop} for row in full]
        path = tmp_path / "exponents.parquet"
        pq.write_table(pa.Table.from_pylist(kept), path)
        return path

    return write


@pytest.fixture(params=FILES, ids=lambda file: file.stem)
def file(request: pytest.FixtureRequest) -> Path:
    lacking = missing_extra(request.param)
    if lacking:
        pytest.skip(f"{request.param.stem} {lacking}")
    return request.param


@pytest.fixture
def build(file: Path, write_exponents: Callable[..., Path]) -> Callable[..., torch.optim.Optimizer]:
    """Build the file's optimizer for a model, as a run does; ``changes`` override its values."""

    def build_for(model: nn.Module, **changes: Any) -> torch.optim.Optimizer:
        rows = [
            {"layer": layer, "alpha": 1.0 + 0.25 * i}
            for i, layer in enumerate(weight_layers(model))
        ]
        measured = "exponents" in content(file)
        exponents = str(write_exponents(rows)) if measured else None
        run = {"exponents": exponents, "trainer": {"compile": False}}  # what files refer to
        config = OmegaConf.create({**run, "optimizer": content(file)})
        OmegaConf.resolve(config)
        for key, value in changes.items():
            OmegaConf.update(config.optimizer, key, value)
        chosen = OmegaConf.to_container(config.optimizer)
        with warnings.catch_warnings():  # attention's stacked weight has no measured exponent
            warnings.filterwarnings("ignore", message=".*no usable s.*|.*no reliable alpha.*")
            optimizer = build_optimizer(chosen, model)
        if hasattr(optimizer, "train"):  # Schedule-Free, as the training loop does
            optimizer.train()
        return optimizer

    return build_for
