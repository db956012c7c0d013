"""Datasets in memory: the newest ones, within a budget.

From a config to its parts, and from a run folder back.
"""

from __future__ import annotations

import gc
import json
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from bench import config, parts, train
from bench.build import ImageShape, build_model, build_optimizer, build_schedule
from bench.config import RunConfig
from bench.data.digits import load
from bench.errors import UserError
from bench.identity import identify
from bench.parts import KeptData, build_data, bytes_of, origin_of, restore, seeded_model, shape_of


def test_bytes_of_a_dataset() -> None:
    data = load(Path(), 0)
    splits = (data.train, data.val, data.test)
    assert bytes_of(data) == sum(64 * len(split) + 8 * len(split) for split in splits)
    assert bytes_of("something else") == 0


def test_the_oldest_goes_first_and_the_newest_never() -> None:
    kept = KeptData(budget=100)
    loads: list[str] = []

    def get(key: str, size: int) -> torch.Tensor:
        def make() -> torch.Tensor:
            loads.append(key)
            return torch.zeros(size, dtype=torch.uint8)

        found: torch.Tensor = kept.get(key, make)
        return found

    first = get("a", 40)
    assert get("b", 40) is not first
    assert get("a", 40) is first  # used last, so "b" goes now
    get("c", 60)
    assert loads == ["a", "b", "c"]
    assert get("a", 40) is first
    get("b", 40)
    assert loads == ["a", "b", "c", "b"]
    get("huge", 1000)
    get("huge", 1000)
    assert loads.count("huge") == 1
    get("a", 40)
    assert loads[-1] == "a"


def test_runs_share_a_dataset_only_while_it_is_kept(quick: Callable[..., RunConfig]) -> None:
    one, other = quick("seed=1"), quick("seed=2")
    assert parts.build_data(one) is not parts.build_data(one)
    with parts.keeping_data():
        first = parts.build_data(one)
        assert parts.build_data(other) is not first
        assert parts.build_data(one) is first
        gone = weakref.ref(first)
        del first
    gc.collect()
    assert gone() is None
    assert parts.build_data(one) is not parts.build_data(one)


Quick = Callable[..., RunConfig]
SMALL = ImageShape(in_channels=1, num_classes=10, image_size=8)


def net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))


# -- data -----------------------------------------------------------------------------------------


def test_the_data_are_split_by_the_runs_seed(quick: Quick) -> None:
    first, again, other = (build_data(quick(f"seed={seed}")) for seed in (0, 0, 1))
    assert shape_of(first) == SMALL
    assert torch.equal(first.val.images, again.val.images)
    assert not torch.equal(first.val.images, other.val.images)
    assert torch.equal(first.test.images, other.test.images)


def test_data_that_are_missing_name_the_command_that_gets_them(
    quick: Quick, tmp_path: Path
) -> None:
    with pytest.raises(UserError) as caught:
        build_data(quick("dataset=cifar10", f"data_dir={tmp_path / 'nothing here'}"))
    line = str(caught.value)
    assert "\n" not in line
    where = f"data_dir='{tmp_path / 'nothing here'}'"
    assert f"spectral-bench prepare dataset=cifar10 {where}" in line


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("dataset.validation=0.9999", "dataset=digits: validation=0.9999 cannot be taken out"),
        ("dataset.validation=0", "dataset=digits: validation=0 cannot be taken out of 1438"),
        ("dataset.pad=-2", "dataset=digits: pad must be 0 or more pixels, not -2"),
        ("trainer.batch_size=1295", "trainer.batch_size: batch size 1295 does not fit"),
    ],
)
def test_data_that_cannot_be_are_one_line(quick: Quick, override: str, says: str) -> None:
    with pytest.raises(UserError) as caught:
        build_data(quick(override))
    assert str(caught.value).startswith(says)
    assert "\n" not in str(caught.value)


def test_the_largest_batch_that_fits(quick: Quick) -> None:
    assert len(build_data(quick("trainer.batch_size=1294")).train) == 1294


# -- model, optimizer, schedule -------------------------------------------------------------------


def test_a_seed_is_an_initialisation(quick: Quick) -> None:
    torch.rand(3)  # whatever was drawn before
    first, again, other = (seeded_model(quick(f"seed={seed}"), SMALL) for seed in (0, 0, 1))
    for key, value in first.state_dict().items():
        assert torch.equal(value, again.state_dict()[key])
        assert not torch.equal(value, other.state_dict()[key])


def test_a_model_that_does_not_fit_the_data_is_one_line() -> None:
    with pytest.raises(UserError, match=r"^model: convnet needs images of 4x4.*use model=mlp$"):
        seeded_model(config.load(), ImageShape(1, 10, 2))


def test_the_shape_is_what_a_model_is_built_for() -> None:
    model = build_model({"_target_": "bench.models.mlp.MLP", "hidden": [5]}, ImageShape(2, 7, 3))
    assert model(torch.zeros(4, 2, 3, 3)).shape == (4, 7)


def test_an_optimizer_without_params_gets_all_parameters() -> None:
    component = {"_target_": "torch.optim.SGD", "_partial_": True, "lr": 0.5}
    model = net()
    optimizer = build_optimizer(component, model)
    assert isinstance(optimizer, torch.optim.SGD)
    (group,) = optimizer.param_groups
    assert group["lr"] == 0.5
    assert [id(p) for p in group["params"]] == [id(p) for p in model.parameters()]


def test_params_makes_the_groups_and_is_not_passed_on() -> None:
    component = {
        "_target_": "optimizers.Muon",
        "_partial_": True,
        "params": {"_target_": "optimizers.partition.hidden_matrices", "_partial_": True},
        "lr": 0.1,
        "adamw_lr": 0.01,
    }
    before = json.dumps(component)
    model = net()
    optimizer = build_optimizer(component, model)
    assert json.dumps(component) == before  # the config is not eaten up
    assert len(optimizer.param_groups) > 1
    held = [p for group in optimizer.param_groups for p in group["params"]]
    assert sorted(map(id, held)) == sorted(map(id, model.parameters()))


def test_lists_and_mappings_reach_an_optimizer_as_plain_ones() -> None:
    """Hydra's own would be kept in the optimizer's state, and no checkpoint would load."""
    nadam = {"_target_": "torch.optim.NAdam", "_partial_": True, "betas": [0.5, 0.6]}
    (group,) = build_optimizer(nadam, net()).param_groups
    assert type(group["betas"]) is list
    component = {
        "_target_": "optimizers.paired.Paired",
        "_partial_": True,
        "params": {
            "_target_": "optimizers.partition.hidden_matrices",
            "_partial_": True,
            "overrides": {"0.*": "adamw"},
        },
        "matrix": {"_target_": "torch.optim.SGD", "_partial_": True, "lr": 1.0},
        "other": nadam,
    }
    for group in build_optimizer(component, net()).param_groups:
        assert type(group.get("betas", [])) is list


def test_a_schedule_scales_each_groups_own_rate() -> None:
    model = net()
    groups = [{"params": model[0].parameters(), "lr": 1.0}, {"params": model[1].parameters()}]
    optimizer = torch.optim.SGD(groups, lr=0.1)
    component = {"_target_": "bench.schedules.linear", "_partial_": True}
    schedule = build_schedule(component, optimizer, 4)
    rates = []
    for _ in range(4):
        rates.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        schedule.step()
    assert rates == [[1.0, 0.1], [0.75, 0.1 * 0.75], [0.5, 0.05], [0.25, 0.025]]


# -- back from a run folder -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run whose training images were augmented."""
    runs = tmp_path_factory.mktemp("restored")
    words = ["model=convnet", "model.width=4", "tracker=none", "trainer.epochs=2"]
    words += ["trainer.batch_size=400", "trainer.threads=1", "trainer.device=cpu"]
    words += ["trainer.checkpoint_seconds=0"]
    train.train(config.load([*words, "dataset.pad=1", f"runs_dir={runs}", "seed=3"]))
    (folder,) = runs.iterdir()
    return folder


def test_a_restored_network_has_the_runs_accuracies(finished: Path) -> None:
    restored = restore(finished)
    summary = json.loads((finished / "summary.json").read_text())
    assert not restored.model.training
    with torch.no_grad():
        for split in ("val", "test"):
            hits, loss, count = 0, 0.0, 0
            for images, labels in restored.data.eval_batches(split, 200):  # type: ignore[arg-type]
                logits = restored.model(images).double()
                hits += int((logits.argmax(1) == labels).sum())
                loss += float(F.cross_entropy(logits, labels, reduction="sum"))
                count += len(labels)
            assert hits / count == summary[f"{split}/accuracy"]
            assert loss / count == pytest.approx(summary[f"{split}/loss"], rel=1e-5)
    assert (restored.step, restored.epoch) == (6, 2.0)
    assert restored.config["id"] == finished.name
    assert next(restored.model.parameters()).device.type == "cpu"


def test_a_restored_batch_is_the_beginning_of_the_training_split(finished: Path) -> None:
    restored = restore(finished)
    inputs, labels = restored.batch(7)
    split = restored.data.train
    assert (inputs.dtype, labels.dtype) == (torch.float32, torch.int64)
    assert torch.equal(labels, split.labels[:7])
    pixels = split.images[:7].double()  # unaugmented, normalised
    mean, std = restored.data.mean[0] * 255, restored.data.std[0] * 255
    torch.testing.assert_close(inputs.double(), (pixels - mean) / std, rtol=1e-5, atol=1e-6)
    assert torch.equal(inputs, restored.batch(7)[0])
    assert len(restored.batch(10**6)[1]) == len(split) == 1294


def test_the_record_says_where_the_data_come_from(finished: Path, quick: Quick) -> None:
    (attempt,) = json.loads((finished / "provenance.json").read_text())["attempts"]
    assert attempt["data"] == "sklearn.datasets.load_digits"
    assert origin_of(build_data(quick("dataset=synthetic_images", "dataset.count=800"))) is None


def test_restoring_falls_back_to_the_checkpoint_before(finished: Path, tmp_path: Path) -> None:
    copy = tmp_path / finished.name
    copy.mkdir()
    for file in finished.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    (copy / "checkpoint.pt").write_bytes(b"torn")
    with pytest.warns(UserWarning, match="using an earlier state"):
        restored = restore(copy)
    assert (restored.step, restored.epoch) == (3, 1.0)
    (copy / "checkpoint.prev.pt").write_bytes(b"torn")
    with (
        pytest.warns(UserWarning, match="cannot be read"),
        pytest.raises(UserError, match="no readable checkpoint; run it again to make one"),
    ):
        restore(copy)


@pytest.mark.parametrize("content", [None, "{", "[]"])
def test_what_is_no_run_folder_says_so(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(UserError, match="not a run folder"):
        restore(tmp_path)


def test_a_stored_config_is_the_config(finished: Path) -> None:
    stored: dict[str, Any] = json.loads((finished / "config.json").read_text())
    again = RunConfig.model_validate({key: stored[key] for key in RunConfig.model_fields})
    assert set(stored) - set(RunConfig.model_fields) == {"id", "variant"}
    assert train.stored_config(again, identify(again)) == stored
