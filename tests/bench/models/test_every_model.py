"""What holds for each model in conf/model/: a new file there is tested without an edit here."""

from __future__ import annotations

import math
import pkgutil
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor, nn

from bench import files
from bench.build import ImageShape, TokenShape, attempt, build_model, taken_kinds
from bench.errors import UserError
from bench.training.losses import cross_entropy
from optimizers.partition import HIDDEN_TYPES, hidden_matrices, label_parameters, weight_layers

FILES = sorted((files.conf_dir() / "model").glob("*.yaml"))
every_model = pytest.mark.parametrize("path", FILES, ids=[path.stem for path in FILES])
CLASSES = 10


def takes_tokens(path: Path) -> bool:
    (kind,) = taken_kinds(pkgutil.resolve_name(OmegaConf.load(path)._target_))
    return kind is TokenShape


def build(path: Path, channels: int = 3, classes: int = CLASSES, size: int = 8) -> nn.Module:
    """The model at its own width, but two blocks deep at most: what is tested is in each block.

    A model of tokens has ``classes`` of them and a context of ``size``.
    """
    config: Any = OmegaConf.to_container(OmegaConf.load(path))
    if "layers" in config:
        config["layers"] = min(config["layers"], 2)
    images = ImageShape(channels, classes, size)
    try:
        shape = TokenShape(classes, size, classes) if takes_tokens(path) else images
        return attempt("model", lambda: build_model(config, shape))
    except UserError as error:
        if "no weights in" in str(error):
            pytest.skip(str(error))
        raise


def batch(path: Path, count: int, channels: int = 3, size: int = 8) -> tuple[Tensor, Tensor]:
    """Random inputs and targets."""
    if takes_tokens(path):
        tokens = torch.randint(CLASSES, (count, size + 1))
        return tokens[:, :-1], tokens[:, 1:]
    return torch.randn(count, channels, size, size), torch.arange(count) % CLASSES


def objective(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    return cross_entropy(model(inputs), targets)


def test_the_study_is_complete() -> None:
    assert {path.stem for path in FILES} >= {
        *("mlp", "mlp_one_hidden", "convnet", "resnet18", "resnet50", "resnet50_imagenet"),
        *("vgg11", "vgg16", "vit_tiny", "vit_micro", "gpt_mini", "gpt2_small"),
    }


@every_model
@pytest.mark.parametrize(("channels", "size"), [(1, 8), (1, 28), (3, 32), (3, 64)])
def test_logits_for_every_dataset_without_memory(path: Path, channels: int, size: int) -> None:
    if "imagenet" in path.stem and channels != 3:
        pytest.skip("its weights are those of colour images")
    with torch.device("meta"):
        model = build(path, channels, 7, size)
        inputs, targets = batch(path, 2, channels, size)
    assert all(p.is_meta for p in model.parameters())
    assert model(inputs).shape == (*targets.shape, 7)


@every_model
def test_initialisation_is_the_global_seed_and_nothing_else(path: Path) -> None:
    def weights(seed: int) -> Tensor:
        torch.manual_seed(seed)
        return torch.cat([p.detach().flatten() for p in build(path).parameters()])

    first = weights(0)
    assert torch.equal(first, weights(0))
    assert not torch.equal(first, weights(1))


@every_model
def test_the_first_loss_is_that_of_a_guess(path: Path) -> None:
    """Cross-entropy near ln(classes), and every parameter gets a finite, non-zero gradient."""
    torch.manual_seed(0)
    model = build(path, size=32)
    loss = objective(model, *batch(path, 16, size=32))
    assert loss.item() == pytest.approx(math.log(CLASSES), abs=0.5)
    loss.backward()
    for name, parameter in model.named_parameters():
        gradient = parameter.grad
        assert gradient is not None and gradient.isfinite().all() and gradient.any(), name


@every_model
def test_a_batch_is_learnt(path: Path) -> None:
    torch.manual_seed(0)
    model, (inputs, targets) = build(path), batch(path, 8)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    losses = []
    for _ in range(4):
        optimizer.zero_grad()
        loss = objective(model, inputs, targets)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


@every_model
def test_samples_do_not_meet_in_evaluation(path: Path) -> None:
    torch.manual_seed(0)
    model = build(path).double().eval()
    inputs, _ = batch(path, 4)
    if inputs.is_floating_point():
        inputs = inputs.double()
    with torch.no_grad():
        together, alone = model(inputs), torch.cat([model(one[None]) for one in inputs])
    torch.testing.assert_close(together, alone, rtol=1e-9, atol=1e-12)


@every_model
def test_autocast_computes_the_same_in_bfloat16(path: Path) -> None:
    torch.manual_seed(0)
    model = build(path).eval()
    inputs, _ = batch(path, 4)
    with torch.no_grad():
        exact = model(inputs)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rounded = model(inputs)
    assert (exact.dtype, rounded.dtype) == (torch.float32, torch.bfloat16)
    error = (rounded.float() - exact).norm() / exact.norm()
    assert 0 < error < 0.03


@pytest.mark.slow
@every_model
def test_the_whole_model_is_one_graph(path: Path) -> None:
    """No graph break: torch.compile(fullgraph=True) raises at one."""
    torch.manual_seed(0)
    model, (inputs, _) = build(path).eval(), batch(path, 2)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    with torch.no_grad():
        torch.testing.assert_close(compiled(inputs), model(inputs))


@every_model
def test_every_matrix_has_a_type_and_the_head_is_last(path: Path) -> None:
    with torch.device("meta"):
        model = build(path)
    labels = label_parameters(model)
    names = {id(weight): name for name, weight in model.named_parameters()}
    types = [labels[names[id(weight)]].layer_type for weight in weight_layers(model).values()]
    *hidden, head = types
    assert head == "head" or weight_layers(model)["head"] is model.get_parameter(
        "token_embedding.weight"
    )
    assert set(hidden) <= {*HIDDEN_TYPES, "embedding"}
    groups = hidden_matrices(model)
    assert sum(len(group["params"]) for group in groups) == len(labels)
    vectors = [p for group in groups for _, p in group["params"] if p.ndim < 2]
    assert len(vectors) == sum(label.layer_type in ("norm", "bias") for label in labels.values())
