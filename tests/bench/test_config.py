"""Every shipped config composes; every bad one is refused in one line, before anything is written.

Parametrised over the files of conf/ and sweeps/: a new one is tested without a change here.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from hydra import compose
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf

from bench import cli, config, files
from bench.build import build_model, declared_shape
from bench.compose import composing
from bench.config import GROUPS, RunConfig, TrainerConfig
from bench.errors import UserError
from bench.public_names import locate

CHOICES = [
    (group, file.stem)
    for group in GROUPS
    for file in sorted((files.conf_dir() / group).glob("*.yaml"))
]
OPTIMIZERS = [name for group, name in CHOICES if group == "optimizer"]


@cache
def composed(*groups: str) -> DictConfig:
    with composing():
        return compose("train", overrides=list(groups), return_hydra_config=True)


@cache
def composed_own(*groups: str) -> tuple[dict[str, Any], dict[str, str]]:
    """The composed config without Hydra's node, unresolved, and the chosen file of each group."""
    whole = composed(*groups)
    own = OmegaConf.masked_copy(whole, [str(key) for key in whole if key != "hydra"])
    return cast("dict[str, Any]", OmegaConf.to_container(own)), dict(whole.hydra.runtime.choices)


def changed(groups: Sequence[str], changes: dict[str, Any]) -> RunConfig:
    """Resolve a composed config after ``changes`` (dotted key to value): ``load`` without Hydra."""
    own, choices = composed_own(*groups)
    copy = OmegaConf.create(own)
    for key, value in changes.items():
        OmegaConf.update(copy, key, value, force_add=True)
    return config.resolve(copy, choices)


# Tried in this order, so that most files are tested with the default of the other group.
PREFERRED = ("convnet", "digits", "cifar10")


@cache
def with_partner(group: str, name: str) -> tuple[str, ...]:
    """Overrides that choose a file, and for a model or dataset one of the other that fits it."""
    other = {"model": "dataset", "dataset": "model"}.get(group)
    if other is None:
        return (f"{group}={name}",)
    names = [choice for its_group, choice in CHOICES if its_group == other]
    for partner in sorted(names, key=lambda name: (name not in PREFERRED, name)):
        with suppress(UserError):
            changed((f"{group}={name}", f"{other}={partner}"), {})
            return (f"{group}={name}", f"{other}={partner}")
    raise AssertionError(f"nothing in conf/{other}/ fits {group}={name}")


@cache
def last_layer(model: str) -> str:
    plain = changed(with_partner("model", model), {})
    shape = declared_shape(plain.dataset)
    assert shape is not None
    with torch.device("meta"):
        *_, last = build_model(plain.model, shape).named_parameters()
    return last[0].rpartition(".")[0]


def line_of(error: Exception) -> str:
    text = str(error)
    assert text.strip() == text
    assert "\n" not in text
    return text


# -- what is shipped ------------------------------------------------------------------------------


@pytest.mark.parametrize(("group", "name"), CHOICES, ids=str)
def test_every_shipped_file_composes(group: str, name: str, exponents: Callable[..., Path]) -> None:
    changes = {"trainer.device": "cpu", "exponents": str(exponents())}
    run = changed(with_partner(group, name), changes)
    assert run.names[group] == name
    assert set(run.names) == set(GROUPS)
    assert json.loads(run.model_dump_json()) == run.model_dump(mode="json")
    assert RunConfig.model_validate(json.loads(run.model_dump_json())) == run


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("model", [name for group, name in CHOICES if group == "model"])
def test_every_optimizer_takes_every_model(
    model: str, optimizer: str, exponents: Callable[..., Path]
) -> None:
    # Exponents belong to one model; a file of this one's last layer is enough.
    path = exponents(layer=["a", "b", "c", last_layer(model)])
    chosen = (*with_partner("model", model), f"optimizer={optimizer}")
    run = changed(chosen, {"exponents": str(path)})
    assert run.names["optimizer"] == optimizer


@pytest.mark.parametrize(("group", "name"), CHOICES, ids=str)
def test_every_default_of_our_own_code_is_written_out(
    group: str, name: str, exponents: Callable[..., Path]
) -> None:
    # A default that is not in the config is not in the run's identity either.
    changes = {"trainer.device": "cpu", "exponents": str(exponents())}
    run = changed(with_partner(group, name), changes)
    component = getattr(run, group)
    if group == "trainer":
        assert set(component.model_fields_set) == set(TrainerConfig.model_fields)
        return
    for part in (component, component.get("params") or {"_target_": "torch.optim.SGD"}):
        if part["_target_"].startswith(("torch.", "pytorch_optimizer.")):
            continue
        signature = inspect.signature(locate(part["_target_"]))
        for parameter in signature.parameters.values():
            if parameter.default is not parameter.empty:
                assert parameter.name in part


def test_every_file_says_what_it_is_and_is_listed() -> None:
    assert {group for group, _ in CHOICES} == set(GROUPS)
    for group, name in CHOICES:
        first = (files.conf_dir() / group / f"{name}.yaml").read_text().splitlines()[0]
        assert first.startswith("# "), (group, name)


def test_the_default_run() -> None:
    run = config.load()
    assert run.names == {
        "model": "convnet",
        "dataset": "digits",
        "optimizer": "adamw",
        "schedule": "cosine",
        "trainer": "default",
        "tracker": "wandb",
    }
    assert (run.seed, run.sweep, run.exponents) == (0, None, None)
    assert run.tracker["mode"] == "offline"
    assert run.trainer.compile is False


def test_overrides_arrive_typed() -> None:
    run = config.load(
        [
            "seed=7",
            "sweep=grid",
            "optimizer.lr=1",
            "trainer.grad_clip=2",
            "trainer.channels_last=false",
            "model.width=8",
            "schedule.final=0",
        ]
    )
    assert (run.seed, run.sweep) == (7, "grid")
    assert isinstance(run.optimizer["lr"], float)
    assert run.optimizer["lr"] == 1.0
    assert isinstance(run.trainer.grad_clip, float)
    assert run.trainer.channels_last is False
    assert run.model["width"] == 8
    assert isinstance(run.schedule["final"], float)


def test_load_leaves_no_hydra_behind_and_works_twice() -> None:
    first, second = config.load(["seed=1"]), config.load(["seed=1"])
    assert first == second
    assert not GlobalHydra.instance().is_initialized()


def test_the_sweeps_folder_is_on_the_search_path() -> None:
    names = sorted(file.stem for file in (files.home() / "sweeps").glob("*.yaml"))
    assert names
    for name in names:
        sweep = composed(f"+sweeps={name}")
        # The runs' group on W&B: files that make one comparison share it.
        assert name == sweep.sweep or name.startswith(f"{sweep.sweep}_")
        assert sweep.hydra.mode.name == "MULTIRUN"


# -- what is refused ------------------------------------------------------------------------------

# (groups, key, value, what the line must say besides the key): checked after composition.
BAD_VALUES: list[tuple[tuple[str, ...], str, Any, str]] = [
    # wrong types
    ((), "seed", "abc", "valid integer"),
    ((), "seed", 1.5, "valid integer"),
    ((), "seed", True, "valid integer, not True"),
    ((), "seed", -1, "greater than or equal to 0, not -1"),
    ((), "seed", None, "valid integer"),
    ((), "sweep", 3, "valid string"),
    ((), "runs_dir", "", "at least 1 character"),
    ((), "runs_dir", None, "valid string"),
    ((), "exponents", 3, "valid string"),
    ((), "trainer.epochs", "many", "valid integer"),
    ((), "trainer.epochs", 0, "greater than 0"),
    ((), "trainer.epochs", 1.5, "valid integer"),
    ((), "trainer.batch_size", 0, "greater than 0"),
    ((), "trainer.eval_batch_size", -1, "greater than 0"),
    ((), "trainer.log_every", 0, "greater than 0"),
    ((), "trainer.checkpoint_every", 0, "greater than 0"),
    ((), "trainer.evaluate_every", 0, "greater than 0"),
    ((), "trainer.evaluate_samples", 0, "greater than 0"),
    ((), "trainer.checkpoint_seconds", -1, "greater than or equal to 0"),
    ((), "trainer.threads", 0, "greater than 0"),
    ((), "trainer.label_smoothing", 1.0, "less than 1"),
    ((), "trainer.label_smoothing", -0.1, "greater than or equal to 0"),
    ((), "trainer.grad_clip", 0, "greater than 0"),
    ((), "trainer.grad_clip", "big", "valid number"),
    ((), "trainer.compile", "maybe", "choices: false, true"),
    ((), "trainer.channels_last", "maybe", "choices: auto, false, true"),
    ((), "trainer.channels_last", "atuo", "did you mean auto?"),
    ((), "optimizer.lr", "fast", "valid number"),
    ((), "optimizer.lr", True, "not true"),
    ((), "optimizer.lr", None, "valid number"),
    ((), "optimizer.lr", [1, 2], "valid number"),
    ((), "model.width", "wide", "valid integer"),
    ((), "model.width", 2.5, "valid integer"),
    (("model=mlp",), "model.hidden", 64, "sequence"),
    # bad literals: the nearest choice is named
    ((), "trainer.precision", "fp16", "did you mean bf16? choices: auto, bf16, float32"),
    ((), "trainer.progress", "bars", "did you mean bar? choices: auto, bar, lines, none"),
    ((), "tracker.mode", "offlin", "'offline', 'online' or 'disabled'"),
    (("dataset=cifar10",), "dataset.kind", "cifar11", "'cifar10'"),
    # devices
    ((), "trainer.device", "gpu", "did you mean cpu? choices: auto, cpu, cuda, cuda:0"),
    ((), "trainer.device", "cuda:99", "is not here"),
    ((), "trainer.device", "mps", "not supported; choices: cpu, cuda"),
    ((), "trainer.device", "", "choices: auto, cpu"),
    # impossible values
    ((), "optimizer.lr", -0.1, "-0.1"),
    (("optimizer=sgd",), "optimizer.momentum", -1, "-1"),
    (("optimizer=muon",), "optimizer.lr", -0.1, "-0.1"),
    (("optimizer=spectral_newton",), "optimizer.damping", 0, "must be > 0, got 0"),
    (("optimizer=spectral_newton",), "optimizer.damping", -0.1, "must be > 0, got -0.1"),
    (("optimizer=spectral_newton",), "optimizer.alpha", 0, "must be > 0, got 0"),
    (("optimizer=spectral_newton",), "optimizer.alpha", -2, "must be > 0, got -2"),
    (("optimizer=spectral_newton",), "optimizer.alpha", "measured", "needs exponents"),
    (("optimizer=spectral_newton",), "optimizer.scale", "big", "raw, amplitude, frobenius"),
    ((), "schedule.warmup", 2.0, "from 0 to 1"),
    ((), "schedule.final", -0.5, "from 0 to 1"),
    (("schedule=wsd",), "schedule.decay", 0.99, "at most 1"),
    ((), "model.width", 0, "1 or more"),
    # nan and infinity, anywhere: JSON has neither, and no result would mean anything
    ((), "optimizer.lr", float("nan"), "nan is not a finite number"),
    ((), "optimizer.lr", float("inf"), "inf is not a finite number"),
    ((), "optimizer.weight_decay", float("-inf"), "-inf is not a finite number"),
    ((), "dataset.validation", float("nan"), "nan is not a finite number"),
    ((), "trainer.grad_clip", float("inf"), "inf is not a finite number"),
    ((), "schedule.warmup", float("nan"), "nan is not a finite number"),
    # keys
    ((), "foo", 1, "unknown key; choices: data_dir, dataset"),
    ((), "optimzer", 1, "did you mean optimizer?"),
    ((), "names", {"model": "x"}, "unknown key"),
    ((), "trainer.epoch", 3, "did you mean epochs?"),
    ((), "trainer.literally", 3, "unknown key; choices: accounting, batch_size"),
    ((), "booleans", 3, "unknown key"),
    ((), "optimizer.lrr", 1, "did you mean lr?"),
    ((), "model.widht", 1, "did you mean width?"),
    ((), "dataset.validatoin", 1, "did you mean validation?"),
    ((), "schedule.warm_up", 1, "did you mean warmup?"),
    (("tracker=none",), "tracker.mode", "offline", "no such option; choices: none"),
    (("optimizer=muon",), "optimizer.params.override", 1, "did you mean overrides?"),
    # keys that the bench sets: these would be ignored in silence
    ((), "dataset.seed", 3, "the bench sets this itself"),
    ((), "dataset.root", "x", "the bench sets this itself"),
    ((), "model.num_classes", 3, "the bench sets this itself"),
    ((), "schedule.total_steps", 3, "the bench sets this itself"),
    ((), "tracker.info", 3, "the bench sets this itself"),
    # targets
    ((), "model._target_", "bench.models.convnet.Convnet", "cannot import"),
    ((), "optimizer._target_", "no_such_package.Lion", "cannot import 'no_such_package.Lion'"),
    ((), "optimizer._target_", "math.pi", "cannot be called"),
    (("optimizer=muon",), "optimizer.params._target_", "optimizers.partition.no", "cannot import"),
]


@pytest.mark.parametrize(
    ("groups", "key", "value", "says"),
    BAD_VALUES,
    ids=[f"{key}={value}" for _, key, value, _ in BAD_VALUES],
)
def test_a_bad_value_is_one_line_that_names_it(
    groups: tuple[str, ...], key: str, value: Any, says: str
) -> None:
    with pytest.raises(UserError) as caught:
        changed(groups, {key: value})
    line = line_of(caught.value)
    # What a component itself refuses is named by its group, and by the component in its own words.
    assert line.startswith((key, f"{key.partition('.')[0]}: ")), line
    assert says in line


# Whole command-line words, so that Hydra's own refusals are covered; the line is explain()'s.
BAD_OVERRIDES = [
    ("optimizer=adamx", "optimizer=adamx: there is no such optimizer; did you mean adam?"),
    ("model=convnte", "did you mean convnet?"),
    ("dataset=cifar", "did you mean cifar10"),
    ("trainer=fast", "trainer=fast: there is no such trainer; "),
    ("hydra/launcher=lokal", "did you mean local?"),
    ("optimiser=adamw", "optimiser: unknown key; did you mean optimizer?"),
    ("optimizer.lrr=1", "optimizer.lrr: unknown key; did you mean lr?"),
    ("trainer.epoch=1", "trainer.epoch: unknown key; did you mean epochs?"),
    ("foo=1", "foo: unknown key; choices: data_dir, dataset"),
    ("+optimizer.lrr=1", "optimizer.lrr: torch.optim.AdamW has no such option; did you mean lr?"),
    ("+foo=1", "foo: unknown key"),
    ("+sweeps=digit", "did you mean digits?"),
    ("optimizer=adamw,muon", "for a grid of several values add -m"),
    ("optimizer.lr", "optimizer.lr: cannot be read; write key=value"),
    ("seed=[1", "cannot be read"),
    ("~seed", "seed: missing; give it a value"),
    ("~optimizer", "optimizer: missing"),
    ("~model._target_", "model: a _target_ is missing"),
    ("optimizer.lr=${nothing}", "optimizer.lr: Interpolation key 'nothing' not found"),
    ("seed=???", "seed: Missing mandatory value"),
    ("optimizer.lr=nan", "optimizer.lr: nan is not a finite number"),
]


@pytest.mark.parametrize(("override", "says"), BAD_OVERRIDES)
def test_a_bad_override_is_one_line_that_names_it(override: str, says: str) -> None:
    with pytest.raises(Exception) as caught:  # of many classes, in Hydra
        config.load([override])
    error = caught.value
    line = line_of(error) if isinstance(error, UserError) else cli.explain(error)
    assert "\n" not in line
    assert says in line


def test_scalar_spectral_adam_says_how_to_get_exponents(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^optimizer: .*spectral-bench curvature") as caught:
        config.load(["optimizer=scalar_spectral_adam"])
    line_of(caught.value)
    absent = tmp_path / "absent.parquet"
    with pytest.raises(UserError, match=r"absent\.parquet"):
        config.load(["optimizer=scalar_spectral_adam", f"exponents={absent}"])
    absent.write_bytes(b"no parquet")
    with pytest.raises(UserError, match="not a readable Parquet file") as caught:
        config.load(["optimizer=scalar_spectral_adam", f"exponents={absent}"])
    line_of(caught.value)


def test_a_gpu_is_named_by_its_number() -> None:
    count = torch.cuda.device_count()
    with pytest.raises(UserError, match=rf"'cuda:{count}' is not here \({count} CUDA devices\)"):
        changed((), {"trainer.device": f"cuda:{count}"})
    if count:
        assert changed((), {"trainer.device": "cuda:0"}).trainer.device == "cuda:0"


@pytest.mark.parametrize("device", ["auto", "cpu", "cpu:0"])
def test_devices_that_are_here(device: str) -> None:
    assert changed((), {"trainer.device": device}).trainer.device == device


def test_a_stored_config_with_a_nan_is_refused_too() -> None:
    values = config.load().trainer.model_dump() | {"grad_clip": float("nan")}
    with pytest.raises(ValueError, match="finite number"):
        TrainerConfig.model_validate(values)
