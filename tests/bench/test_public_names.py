"""Old and new names of a component are one name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from bench import config, train
from bench import files as paths
from bench.config import RunConfig
from bench.digest import source_digest
from bench.errors import UserError
from bench.identity import identify
from bench.parts import restore
from bench.public_names import (
    MOVED,
    canonical,
    current,
    locate,
    targets_of,
    with_canonical,
    with_current,
)

# As if these had lain elsewhere when runs were first made.
WAS = {
    "bench.nets.Perceptron": "bench.models.mlp.MLP",
    "bench.sets.small.load": "bench.data.digits.load",
    "optimizers.old.Orthogonal": "optimizers.Muon",
    "optimizers.old.hidden": "optimizers.partition.hidden_matrices",
    "bench.lr.curve": "bench.schedules.cosine",
    "bench.watchers.Null": "bench.tracking.NullTracker",
}
OLD = [
    "model._target_=bench.nets.Perceptron",
    "dataset._target_=bench.sets.small.load",
    "optimizer=muon",
    "optimizer._target_=optimizers.old.Orthogonal",
    "optimizer.params._target_=optimizers.old.hidden",
    "schedule._target_=bench.lr.curve",
    "tracker._target_=bench.watchers.Null",
]


@pytest.fixture
def moved(monkeypatch: pytest.MonkeyPatch) -> None:
    for old, new in WAS.items():
        monkeypatch.setitem(MOVED, old, new)


def test_a_name_that_never_moved_is_itself() -> None:
    assert canonical("torch.optim.SGD") == current("torch.optim.SGD") == "torch.optim.SGD"
    assert locate("json.dumps") is json.dumps


def test_the_first_name_is_kept_however_often_it_moves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MOVED, "a.Net", "c.Net")
    monkeypatch.setitem(MOVED, "b.Net", "c.Net")  # where it was between
    assert {canonical(name) for name in ("a.Net", "b.Net", "c.Net")} == {"a.Net"}
    assert {current(name) for name in ("a.Net", "b.Net", "c.Net")} == {"c.Net"}


@pytest.mark.usefixtures("moved")
def test_every_depth_is_renamed_and_nothing_else() -> None:
    old = {
        "_target_": "optimizers.old.Orthogonal",
        "name": "optimizers.Muon",
        "deep": [{"_target_": "optimizers.old.hidden"}, {"in": {"_target_": "torch.relu"}}],
    }
    new = with_current(old)
    assert new == {
        "_target_": "optimizers.Muon",
        "name": "optimizers.Muon",
        "deep": [
            {"_target_": "optimizers.partition.hidden_matrices"},
            {"in": {"_target_": "torch.relu"}},
        ],
    }
    assert with_canonical(new) == with_canonical(old) == old


def test_what_the_project_ships_is_known_by_its_own_name() -> None:
    files = [*paths.conf_dir().rglob("*.yaml"), *(paths.home() / "sweeps").rglob("*.yaml")]
    found = {name for file in files for name in targets_of(plain(file))}
    assert len(found) > 40
    for name in found:
        assert canonical(current(name)) == canonical(name)
        if name.startswith(("bench.", "optimizers.", "analysis.")):
            assert callable(locate(name))
            assert source_digest(name) == source_digest(canonical(name)) is not None


def plain(file: Path) -> object:
    return OmegaConf.to_container(OmegaConf.load(file), resolve=False)


def test_todays_entries_lead_somewhere() -> None:
    for old, new in MOVED.items():
        assert new not in MOVED, "the entry must give the newest place"
        assert callable(locate(old))


def test_old_and_new_names_are_the_same_run(
    moved: None, quick: Callable[..., RunConfig], tmp_path: Path
) -> None:
    new, old = quick("optimizer=muon"), quick(*OLD)
    assert identify(old) == identify(new)
    assert old == new
    assert new.optimizer["_target_"] == "optimizers.old.Orthogonal"
    assert train.train(old) == train.train(new)
    folder = tmp_path / "runs" / identify(new).id
    stored = json.loads((folder / "config.json").read_text())
    assert stored["model"]["_target_"] == "bench.nets.Perceptron"
    first = restore(folder)
    (folder / "config.json").write_text(json.dumps(with_current(stored)))
    assert str(restore(folder).model) == str(first.model)
    sources = json.loads((folder / "provenance.json").read_text())["attempts"][0]
    assert sources["optimizer_source"]["optimizers.old.Orthogonal"] == source_digest(
        "optimizers.Muon"
    )


@pytest.mark.usefixtures("moved")
def test_a_moved_name_that_is_gone_is_told_by_the_name_that_was_typed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(MOVED, "bench.nets.Perceptron", "bench.models.gone.MLP")
    with pytest.raises(UserError, match=r"model\._target_: cannot import 'bench\.nets\.Perc"):
        config.load([OLD[0], "model=mlp"])
