"""Each model with each dataset: a pair that makes sense trains, any other is refused in a line."""

from __future__ import annotations

import functools
import itertools
import pkgutil
from typing import Any, cast

import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor

from bench import components, config, paths
from bench.build import (
    CONTENT,
    Shape,
    TokenShape,
    attempt,
    build_model,
    build_optimizer,
    build_schedule,
    declared_shape,
    taken_kinds,
)
from bench.config import RunConfig
from bench.errors import UserError
from bench.step import TrainingStep

OPTIMIZERS = ("adamw", "muon", "spectral_newton")
LIGHT = 6_000_000  # weights; the matrix optimizers' work depends on nothing else


def names(group: str) -> list[str]:
    return sorted(path.stem for path in (paths.conf_dir() / group).glob("*.yaml"))


PAIRS = list(itertools.product(names("model"), names("dataset")))
each_pair = pytest.mark.parametrize(("model", "dataset"), PAIRS, ids=["-".join(p) for p in PAIRS])


@functools.cache
def composed(optimizer: str = "adamw") -> RunConfig:
    return config.load(["tracker=none", f"optimizer={optimizer}"])


def read(group: str, name: str) -> dict[str, Any]:
    loaded = OmegaConf.load(paths.conf_dir() / group / f"{name}.yaml")
    return cast("dict[str, Any]", OmegaConf.to_container(loaded, resolve=True))


def choose(model: str, dataset: str, optimizer: str = "adamw") -> dict[str, dict[str, Any]]:
    """What bench.config makes of the choice, the model two blocks deep at most."""
    default = composed(optimizer)
    own = read("model", model)
    if "layers" in own:
        own["layers"] = min(own["layers"], 2)
    chosen = {
        "model": own,
        "dataset": read("dataset", dataset),
        "optimizer": default.optimizer,
        "schedule": default.schedule,
        "tracker": default.tracker,
    }
    return components.check(chosen, {"model": model, "dataset": dataset})


def batch(shape: Shape, count: int) -> tuple[Tensor, Tensor]:
    """Random samples of the dataset's shape; whether its files are there does not matter."""
    if isinstance(shape, TokenShape):
        tokens = torch.randint(shape.vocab_size, (count, min(shape.context_length, 32) + 1))
        return tokens[:, :-1], tokens[:, 1:]
    images = torch.randn(count, shape.in_channels, shape.image_size, shape.image_size)
    return images, torch.arange(count) % shape.num_classes


@functools.cache
def refusal(model: str, dataset: str) -> str | None:
    try:
        choose(model, dataset)
    except UserError as error:
        return str(error)
    return None


def shape_of(dataset: str) -> Shape:
    shape = declared_shape(read("dataset", dataset))
    assert shape is not None
    return shape


def same_kind(model: str, dataset: str) -> bool:
    target = pkgutil.resolve_name(read("model", model)["_target_"])
    return type(shape_of(dataset)) in taken_kinds(target)


@each_pair
def test_a_pair_is_taken_or_refused_in_one_line(model: str, dataset: str) -> None:
    text = refusal(model, dataset)
    if text is None:
        assert same_kind(model, dataset)
        return
    assert "\n" not in text
    if not same_kind(model, dataset):
        gives = CONTENT[type(shape_of(dataset))]
        assert f"model={model} takes " in text and f"dataset={dataset} gives {gives}" in text


def test_of_one_kind_only_colour_weights_on_grey_images_are_refused() -> None:
    refused = {pair for pair in PAIRS if same_kind(*pair) and refusal(*pair)}
    shapes = {name: shape_of(name) for name in names("dataset")}
    grey = {n for n, shape in shapes.items() if getattr(shape, "in_channels", 3) != 3}
    assert refused == {("resnet50_imagenet", name) for name in grey} != set()
    for pair in refused:
        assert "use model=resnet50" in str(refusal(*pair))


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@each_pair
def test_a_pair_that_is_taken_trains_three_steps(model: str, dataset: str, optimizer: str) -> None:
    """Heavy models meet the matrix optimizers on the smallest samples that they take."""
    if refusal(model, dataset):
        pytest.skip("refused, and rightly: see above")
    shape = shape_of(dataset)
    if getattr(shape, "image_size", 0) > 64:
        pytest.skip("no work for a CPU")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        chosen = choose(model, dataset, optimizer)
        torch.manual_seed(0)
        try:
            network = attempt("model", lambda: build_model(chosen["model"], shape))
        except UserError as error:
            assert "no weights in" in str(error)
            pytest.skip(str(error))
        weights = sum(p.numel() for p in network.parameters())
        if weights > LIGHT and optimizer != "adamw" and dataset not in ("digits", "synthetic_lm"):
            pytest.skip("the same matrices as with the smallest samples")
        rule = build_optimizer(chosen["optimizer"], network)
        step = TrainingStep(
            model=network,
            optimizer=rule,
            schedule=build_schedule(chosen["schedule"], rule, 3),
            device=torch.device("cpu"),
            precision="float32",
            config=composed().trainer,
        )
        inputs, targets = batch(shape, 2)
        before = [p.detach().clone() for p in network.parameters()]
        losses = [step(inputs, targets).item() for _ in range(3)]
        assert torch.tensor(losses).isfinite().all() and losses[2] != losses[0]
        for old, parameter in zip(before, network.parameters(), strict=True):
            assert parameter.isfinite().all() and not torch.equal(old, parameter)
    finally:
        torch.set_num_threads(threads)
