"""Every model with every dataset: it trains with three optimizers, or it is refused in one line.

Parametrised over conf/model/ and conf/dataset/: a new file is tested without a change here. The
data are small copies in the layout of the real ones, or made on the spot.
"""

from __future__ import annotations

import functools
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from bench import config, files, parts
from bench.build import ImageShape, TokenShape, build_optimizer, declared_shape, taken_kinds
from bench.config import RunConfig
from bench.errors import UserError
from bench.models import resnet as pretrained
from bench.training.losses import cross_entropy


def names(group: str) -> list[str]:
    return sorted(path.stem for path in (files.conf_dir() / group).glob("*.yaml"))


def target(group: str, name: str) -> str:
    return str(OmegaConf.load(files.conf_dir() / group / f"{name}.yaml")["_target_"])


# Smaller than by default: less to make, or less to compute.
SMALL = {
    "imagenet": ["image_size=32", "num_classes=3", "validation=6", "workers=0"],
    "synthetic_images": ["count=60", "test_count=20", "image_size=16"],
    "synthetic_lm": ["count=40", "held_out=10", "context_length=16", "vocab_size=64"],
    "python_source": ["context_length=24"],
}
SMALL_TOKEN_MODEL = ["model.dim=32", "model.layers=2", "model.heads=2"]
# The others' real sizes take seconds and more, and the other datasets show nothing new to these.
QUICK = {
    *(("vit_micro", dataset) for dataset in ("digits", "imagenet", "python_source")),
    *(("gpt_mini", dataset) for dataset in ("digits", "python_source", "synthetic_lm")),
}
OPTIMIZERS = ("adamw", "muon", "spectral_newton")
# Accurate functions of large matrices would take most of these tests' time; rough ones show as
# much. Spectral Newton takes the way that it takes on a GPU.
CHEAP = {
    "muon": ["ns_steps=1"],
    "spectral_newton": ["method=polynomial", "damping=1.0", "tolerance=0.1"],
}
PAIRS = [
    pytest.param(
        model,
        dataset,
        id=f"{model}-{dataset}",
        marks=[] if (model, dataset) in QUICK else [pytest.mark.slow],
    )
    for model in names("model")
    for dataset in names("dataset")
]


def kind_of_dataset(name: str) -> type:
    whole = OmegaConf.to_container(OmegaConf.load(files.conf_dir() / "dataset" / f"{name}.yaml"))
    assert isinstance(whole, dict)
    shape = declared_shape({str(key): value for key, value in whole.items()})
    assert shape is not None, f"conf/dataset/{name}.yaml: its module has no function shape"
    return type(shape)


def kinds_of_model(name: str) -> list[type]:
    module, _, attribute = target("model", name).rpartition(".")
    return list(taken_kinds(getattr(__import__(module, fromlist=["_"]), attribute)))


def load(model: str, dataset: str, root: Path, *more: str) -> RunConfig:
    words = [f"model={model}", f"dataset={dataset}", "tracker=none"]
    words += [f"data_dir={root}", "trainer.batch_size=2", "trainer.device=cpu", *more]
    words += [f"dataset.{option}" for option in SMALL.get(dataset, [])]
    if kind_of_dataset(dataset) is TokenShape and TokenShape in kinds_of_model(model):
        words += SMALL_TOKEN_MODEL
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return config.load(words)


@functools.cache
def optimizer_of(name: str) -> dict[str, Any]:
    """The optimizer's config, which is the same whatever it trains."""
    words = (f"++optimizer.{option}" for option in CHEAP.get(name, []))
    return config.load([f"optimizer={name}", "tracker=none", *words]).optimizer


def train_three_steps_each(run: RunConfig) -> None:
    """A real run's parts, three steps with one optimizer after the other.

    In each all matrices must move, and stay finite.
    """
    data = parts.build_data(run)
    model = parts.seeded_model(run, data.shape).train()
    batches = data.train_batches(run.seed, 0, run.trainer.batch_size)
    for name in OPTIMIZERS:
        optimizer = build_optimizer(optimizer_of(name), model)
        before = {key: value.detach().clone() for key, value in model.named_parameters()}
        for _ in range(3):
            inputs, targets = next(batches)
            optimizer.zero_grad(set_to_none=True)
            loss = cross_entropy(model(inputs), targets)
            assert loss.isfinite(), name
            loss.backward()
            optimizer.step()
        for key, value in model.named_parameters():
            assert value.isfinite().all(), (name, key)
            assert value.ndim < 2 or not torch.equal(value, before[key]), (name, key)
    inputs, targets = next(data.eval_batches("val", 4))
    with torch.no_grad():
        assert cross_entropy(model.eval()(inputs), targets).isfinite()


@pytest.mark.parametrize(("model", "dataset"), PAIRS)
def test_a_pair_trains_or_is_refused(
    model: str, dataset: str, data_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pretrained, "_load", lambda *_: None)  # random in place of published
    if kind_of_dataset(dataset) not in kinds_of_model(model):
        with pytest.raises(UserError) as caught:
            load(model, dataset, data_folder)
        message = str(caught.value)
        assert message.startswith(f"model={model} takes ")
        assert f"dataset={dataset} gives " in message and "; choose model=" in message
        assert "\n" not in message
        return
    try:
        run = load(model, dataset, data_folder)
    except UserError as refused:  # for another reason: a shape that the model cannot take
        assert str(refused).startswith("model: ") and "use model=" in str(refused)
        assert "\n" not in str(refused)
        assert model == "resnet50_imagenet"
        return
    train_three_steps_each(run)


def test_classification_of_sequences(data_folder: Path) -> None:
    words = ("model.task=classification", "dataset.task=classification")
    run = load("gpt_mini", "synthetic_lm", data_folder, *words)
    data = parts.build_data(run)
    assert data.shape == TokenShape(vocab_size=64, context_length=16, num_classes=2)
    train_three_steps_each(run)


def test_tasks_that_differ_are_refused(data_folder: Path) -> None:
    for word in ("model.task=classification", "dataset.task=classification"):
        with pytest.raises(UserError, match=r"does not fit dataset\.task=.*give both the same"):
            load("gpt_mini", "synthetic_lm", data_folder, word)
    with pytest.raises(UserError, match=r"dataset\.task: input should be 'lm'"):
        load("gpt_mini", "python_source", data_folder, "dataset.task=classification")


def test_there_are_models_and_datasets_of_both_kinds() -> None:
    given = {kind_of_dataset(name) for name in names("dataset")}
    taken = {kind for name in names("model") for kind in kinds_of_model(name)}
    assert given == taken == {ImageShape, TokenShape}
    assert {"tiny_imagenet", "imagenet", "python_source"} <= set(names("dataset"))
