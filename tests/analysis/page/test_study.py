from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import study_runs
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.page.study import Header, Plan, Study, header, plan, span, studies, tuner, values
from analysis.run import archive as run_archive

FILE = """# @package _global_
sweep: study_x
study:
  question: Which of a and b is better?
  notes: [Nobody knows., "Or: somebody."]
  cost: {seconds: 120, device: a clock, measured: true}
"""


def archive(root: Path, path: Path) -> Path:
    run_archive.write(path, run_archive.gather(root))
    return path


def test_the_header_of_a_sweep_file(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text(FILE)
    found = header(tmp_path / "x.yaml")
    assert found.question == "Which of a and b is better?"
    assert found.text == (
        f"{found.question} Nobody knows. Or: somebody. Cost: 2 min on a clock, measured."
    )
    assert found.commands == ("spectral-bench train -m +sweeps=x",)
    (tmp_path / "x.yaml").write_text(FILE + "  exponents: [seed=1]\n")
    assert header(tmp_path / "x.yaml").commands == ("spectral-bench study +sweeps=x",)
    assert header(None) == Header("", ())
    assert Header("A map of 0.5 by 2. More.", ()).question == "A map of 0.5 by 2."
    assert Header("no sentence", ()).question == "no sentence"


def test_studies_are_those_with_a_file_or_an_archive_in_natural_order(
    runs: Any, tmp_path: Path
) -> None:
    (tmp_path / "sweeps").mkdir()
    for name in ("study_a_30", "study_a_8", "other"):
        (tmp_path / "sweeps" / f"{name}.yaml").write_text(FILE)
    study_runs.study(runs, tmp_path / "runs", {"sgd": [0.5]}, name="study_b")
    results = tmp_path / "results"
    found = studies(results, tmp_path / "sweeps")
    assert [one.name for one in found] == ["study_a_8", "study_a_30"]
    results.mkdir()
    path = archive(tmp_path / "runs", results / "study_b.parquet")
    pd.DataFrame({"x": [1]}).to_parquet(results / "table.parquet")
    found = studies(results, tmp_path / "sweeps")
    assert [(one.name, one.archive) for one in found] == [
        ("study_a_8", None), ("study_a_30", None), ("study_b", path)
    ]  # fmt: skip


def test_a_study_knows_what_its_file_plans(runs: Any, tmp_path: Path) -> None:
    root = study_runs.study(runs, tmp_path / "runs", {"sgd": [0.5, 0.6]})
    path = archive(root, tmp_path / "study_x.parquet")
    (tmp_path / "study_x.yaml").write_text(
        'hydra:\n  sweeper:\n    params:\n      optimizer: "sgd,adamw,\\\n        muon"\n'
    )
    (tmp_path / "study_y.yaml").write_text("# A map.\n")
    no_runs, found = studies(tmp_path, tmp_path)[::-1]
    assert (found.name, found.archive) == ("study_x", path)
    assert found.planned.absent(found.runs) == {"optimizer": ["adamw", "muon"]}
    assert no_runs.planned.size == 0


def test_report_runs_tuning_runs_and_what_prepared_them(runs: Any, tmp_path: Path) -> None:
    root = study_runs.study(runs, tmp_path / "runs", {"sgd": [0.5, 0.6], "adamw": [0.7]})
    study_runs.write(runs, root, runs.config("adamw", 1999, sweep="study_x"), 0.1)
    study_runs.write(runs, root, runs.config("adamw", 1998, sweep="study_x_exponents"), 0.1)
    study_runs.write(runs, root, runs.config("adamw", 3, sweep="elsewhere"), 0.1)
    found = Study("study_x", Header("", ()), archive(root, tmp_path / "study_x.parquet"))
    assert list(zip(found.runs["optimizer"], found.runs["seed"], strict=True)) == [
        ("adamw", 0), ("sgd", 0), ("sgd", 1)
    ]  # fmt: skip
    assert list(found.tuning["seed"]) == [1000] * 4
    assert list(found.preparation["seed"]) == [1999, 1998]


def test_a_seed_of_both_is_refused(runs: Any, tmp_path: Path) -> None:
    root = study_runs.study(runs, tmp_path / "runs", {"sgd": [0.5, 0.6]})
    bad = runs.config("sgd", 1, sweep="study_x_tune", optimizer__lr=0.5)
    study_runs.write(runs, root, bad, 0.4)
    found = Study("study_x", Header("", ()), archive(root, tmp_path / "study_x.parquet"))
    with pytest.raises(ValueError, match=r"study_x.parquet: seed 1 is among the tuning runs and"):
        _ = found.runs


def test_an_archive_of_another_study_is_refused(runs: Any, tmp_path: Path) -> None:
    root = study_runs.study(runs, tmp_path / "runs", {"sgd": [0.5]}, name="study_y")
    found = Study("study_x", Header("", ()), archive(root, tmp_path / "study_x.parquet"))
    with pytest.raises(ValueError, match=r"no run of the sweep study_x; there are study_y"):
        _ = found.tuning


def test_values_of_a_column() -> None:
    runs = pd.DataFrame({"a": [8.0, 30.0, 8.0], "b": ["y", None, "x"], "c": [0.5, 2, 1]})
    assert values(runs, "a") == ["8", "30"]
    assert values(runs, "b") == ["x", "y"]
    assert values(runs, "c") == ["0.5", "1", "2"]
    assert values(runs, "d") == []


@given(st.sets(st.integers(0, 30)))
@settings(max_examples=50, deadline=None)
def test_spans_say_exactly_which(seeds: set[int]) -> None:
    told: set[int] = set()
    for part in span(list(seeds)).split(", "):
        if part:
            low, _, high = part.partition("-")
            told |= set(range(int(low), int(high or low) + 1))
    assert told == seeds
    assert span([4, 0, 1, 2, 1]) == "0-2, 4"


def kept(
    runs: Any, root: Path, name: str, accuracies: dict[str, list[float]], **more: Any
) -> Study:
    folder = study_runs.study(runs, root / f"runs_{name}", accuracies, name=name, **more)
    return Study(name, Header("", ()), archive(folder, root / f"{name}.parquet"))


def test_who_tuned_a_study(runs: Any, tmp_path: Path) -> None:
    pair = {"adamw": [0.5], "muon": [0.5]}
    few = kept(runs, tmp_path, "study_a", {"adamw": [0.5]})
    both = kept(runs, tmp_path, "study_b", pair)
    long = kept(runs, tmp_path, "study_c", pair, rates=())
    other = kept(runs, tmp_path, "study_d", {"sgd": [0.5]}, rates=())
    plain = kept(runs, tmp_path, "study_f", pair, rates=(), tuned=False)
    elsewhere = kept(runs, tmp_path, "study_g", pair, rates=(), tuned="folder")
    idle = Study("study_e", Header("", ()), None)
    everyone = [few, both, long, other, idle, plain, elsewhere]
    assert tuner(few, everyone) is few
    assert tuner(long, everyone) is both
    assert tuner(long, [few, long]) is few
    assert tuner(other, everyone) is other
    assert tuner(idle, everyone) is idle
    assert tuner(plain, everyone) is plain
    assert tuner(elsewhere, everyone) is both


def test_a_seed_that_another_studys_tuning_used_is_refused(runs: Any, tmp_path: Path) -> None:
    tuned = kept(runs, tmp_path, "study_b", {"adamw": []})
    config = runs.config("adamw", 2, sweep="study_b_tune")
    study_runs.write(runs, tmp_path / "runs_study_b", config, 0.5)
    archive(tmp_path / "runs_study_b", tmp_path / "study_b.parquet")
    long = kept(runs, tmp_path, "study_c", {"adamw": [0.5, 0.5, 0.5]}, rates=())
    with pytest.raises(ValueError, match=r"study_c.parquet and .*study_b.parquet: seed 2 is among"):
        tuner(long, [tuned, long])


def test_a_study_that_has_not_run_has_no_runs() -> None:
    idle = Study("study_e", Header("", ()), None)
    assert len(idle.runs) == len(idle.tuning) == len(idle.preparation) == 0


FILE_PLANNED = """# A study.
hydra:
  sweeper:
    params:
      optimizer: "sgd,\\
        muon"
      optimizer.damping: 0.1,1e-3
      optimizer.normalize: none,frobenius
      seed: 0,1
"""


def read(path: Path, text: str) -> Plan:
    path.write_text(text)
    return plan(path)


def test_values_are_what_hydra_makes_of_them(tmp_path: Path) -> None:
    found = read(tmp_path / "s.yaml", FILE_PLANNED)
    assert found.axes == {
        "optimizer": ("sgd", "muon"),
        "optimizer.damping": (0.1, 0.001),
        "optimizer.normalize": ("none", "frobenius"),
        "seed": (0, 1),
    }
    assert found.size == 16


def test_one_value_is_an_axis_of_one(tmp_path: Path) -> None:
    found = read(tmp_path / "s.yaml", "hydra: {sweeper: {params: {seed: 3, model: mlp}}}")
    assert (found.axes, found.size) == ({"seed": (3,), "model": ("mlp",)}, 1)


def test_what_cannot_be_read_off_plans_nothing(tmp_path: Path) -> None:
    ranges = read(tmp_path / "s.yaml", 'hydra: {sweeper: {params: {seed: "range(0,5)"}}}')
    for one in (ranges, read(tmp_path / "t.yaml", "a: 1"), plan(None)):
        assert (one.size, one.absent(pd.DataFrame({"seed": [0]}))) == (0, {})


def test_values_that_no_run_has(tmp_path: Path) -> None:
    planned = read(tmp_path / "s.yaml", FILE_PLANNED)
    runs = pd.DataFrame(
        {
            "optimizer": ["muon", "muon"],
            "seed": [0, 1],
            "config.optimizer.damping": [0.001, 0.001],
            "config.optimizer.normalize": ["frobenius", "none"],
        }
    )
    assert planned.absent(runs) == {"optimizer": ["sgd"], "optimizer.damping": ["0.1"]}
    assert planned.absent(runs[["seed"]]) == {}  # of the rest these runs say nothing


def test_a_missing_value_is_no_value(tmp_path: Path) -> None:
    planned = read(tmp_path / "s.yaml", "hydra: {sweeper: {params: {optimizer.clip: '1.0,2.0'}}}")
    runs = pd.DataFrame({"config.optimizer.clip": [1.0, float("nan")]})
    assert planned.absent(runs) == {"optimizer.clip": ["2.0"]}


def test_what_tuning_is_scored_by(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    rest = "trials: 6, extension: 2, seeds: [1000], space: {}"
    path.write_text(f"study: {{tuning: {{metric: val/loss, {rest}}}}}")
    assert plan(path).scored_by == "val/loss"
    path.write_text(FILE_PLANNED)
    assert plan(path).scored_by is plan(None).scored_by is None


def test_how_often_results_were_seen(tmp_path: Path) -> None:
    assert read(tmp_path / "s.yaml", FILE_PLANNED).study.looks == 1
    assert read(tmp_path / "t.yaml", FILE_PLANNED + "study: {looks: 3}\n").study.looks == 3


def test_what_is_to_be_compared_besides(tmp_path: Path) -> None:
    assert read(tmp_path / "s.yaml", FILE_PLANNED).study.contrasts == []
    asked = read(
        tmp_path / "t.yaml", FILE_PLANNED + "study: {contrasts: [[muon, sgd]]}\n"
    ).study.contrasts
    assert asked == [("muon", "sgd")]


def test_null_is_a_value_and_lists_are_not_compared(tmp_path: Path) -> None:
    text = "hydra: {sweeper: {params: {optimizer.clip: 'null,2.0', optimizer.betas: '[0.9,0.99]'}}}"
    planned = read(tmp_path / "s.yaml", text)
    assert planned.axes == {"optimizer.clip": (None, 2.0), "optimizer.betas": ([0.9, 0.99],)}
    runs = pd.DataFrame({"config.optimizer.clip": [2.0], "config.optimizer.betas": ["(0.9, 0.99)"]})
    assert planned.absent(runs) == {"optimizer.clip": ["null"]}
    runs = pd.DataFrame({"config.optimizer.clip": [float("nan")]})
    assert planned.absent(runs) == {"optimizer.clip": ["2.0"]}
