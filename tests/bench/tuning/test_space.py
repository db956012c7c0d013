"""What is searched out of the box: for each file of conf/optimizer/, and for a user's own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench import files
from bench.errors import UserError
from bench.launch.grid import Composer, master_config
from bench.tuning.search import Range
from bench.tuning.space import Tie, declared_space, declared_ties, tied
from bench.tuning.spec import Tuning, study_of

OPTIMIZERS = sorted(path.stem for path in (files.conf_dir() / "optimizer").glob("*.yaml"))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_has_rate_and_decay_in_equal_ratios_around_its_own(
    loader: Any, name: str, exponents: Callable[..., Path]
) -> None:
    words = [f"optimizer={name}", f"exponents={exponents()}"]
    values = Composer(loader, master_config(loader, words)).values(words)
    own = values["optimizer"]
    rate, decay = declared_space(name, values).items()
    assert rate[0] == "optimizer.lr"
    assert (rate[1].low, rate[1].high) == pytest.approx((own["lr"] / 5, own["lr"] * 5.4))
    matrix = "matrix" in own
    assert decay[0] == f"optimizer.{'matrix.' if matrix else ''}weight_decay"
    default = (own["matrix"] if matrix else own)["weight_decay"]
    ends = (default / 5, default * 5.4) if default else (1e-4, 1e-1)
    assert (decay[1].low, decay[1].high) == pytest.approx(ends)
    # Whatever else has a learning rate follows: the AdamW part of optimizers of hidden matrices.
    ties = tied(declared_ties(), dict([rate, decay]), values)
    other = own.get("adamw_lr", own.get("other", {}).get("lr"))
    assert [(tie.key, tie.ratio) for tie in ties.values()] == (
        [] if other is None else [("optimizer.lr", pytest.approx(other / own["lr"], rel=1e-3))]
    )


def test_a_file_without_decay_has_its_rate_searched_alone() -> None:
    values = {"optimizer": {"_target_": "x.Y", "lr": 1, "momentum": 0.9}}
    assert declared_space("mine", values) == {"optimizer.lr": Range(0.2, 5.4)}


def test_a_file_with_neither_must_name_what_is_searched() -> None:
    with pytest.raises(UserError, match=r"mine has none of optimizer\.lr, .*tuning\.space\.mine"):
        declared_space("mine", {"optimizer": {"_target_": "x.Y", "lr": None, "weight_decay": True}})


@pytest.mark.parametrize("lr", [0.0, -1.0])
def test_no_range_is_around_a_rate_that_is_not_positive(lr: float) -> None:
    with pytest.raises(UserError, match=r"no range around optimizer\.lr=-?\d"):
        declared_space("mine", {"optimizer": {"lr": lr}})


def test_ties_have_the_ratio_of_the_file_and_hold_only_to_what_is_searched() -> None:
    values = {"optimizer": {"lr": 0.3, "adamw_lr": 1e-3, "a": 0.0}}
    ranges = {"optimizer.lr": Range(0.1, 1.0)}
    found = tied({"optimizer.adamw_lr": "optimizer.lr"}, ranges, values)
    assert found == {"optimizer.adamw_lr": Tie("optimizer.lr", 0.003333)}
    assert found["optimizer.adamw_lr"].value({"optimizer.lr": 0.6}) == 0.002
    assert tied({"optimizer.other.lr": "optimizer.lr"}, ranges, values) == {}
    assert tied({"optimizer.adamw_lr": "optimizer.rate"}, ranges, values) == {}
    with pytest.raises(UserError, match=r"optimizer\.lr has no ratio to optimizer\.a=0"):
        tied({"optimizer.lr": "optimizer.a"}, {"optimizer.a": Range(1.0, 2.0)}, values)


def test_a_study_that_names_its_space_ties_nothing_by_itself() -> None:
    values = {"optimizer": {"lr": 0.02, "adamw_lr": 2e-3}}
    space = {"muon": {"optimizer.lr": {"low": 0.01, "high": 0.1}}}
    for given, count in (
        ({"space": space}, 0),
        ({"space": "default"}, 1),
        ({}, 1),
        ({"ties": {}}, 0),
        ({"space": space, "ties": {"optimizer.adamw_lr": "optimizer.lr"}}, 1),
    ):
        tuning = Tuning.model_validate({"trials": 4, **given})
        assert len(tuning.tied(tuning.ranges("muon", values), values)) == count


def test_what_may_be_left_out() -> None:
    tuning = study_of({"study": {"tuning": {"trials": 12}}}).tuning
    assert tuning is not None
    assert (tuning.method, tuning.seeds, tuning.space) == ("narrow", [1000, 1001, 1002], None)
    older = study_of({"study": {"tuning": {"trials": 6, "extension": 2}}}).tuning
    assert older is not None
    assert older.method == "grid"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"method": "narrow", "extension": 2}, "narrow has no extension=2"),
        ({"at": ["optimizer.lr=3"]}, r"optimizer\.lr=3 is no option of trainer, dataset"),
        ({"at": ["trainer.epochs"]}, r"trainer\.epochs is no option"),
        ({"at": ["model=mlp"]}, "model=mlp is no option"),
        ({"space": "all"}, r"study\.tuning\.space: input should be a valid dictionary"),
        ({"method": "best"}, r"study\.tuning\.method: input should be"),
    ],
)
def test_mistakes_are_named(given: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said) as caught:
        study_of({"study": {"tuning": {"trials": 12, **given}}})
    assert "\n" not in str(caught.value)
