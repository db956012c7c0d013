from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import study_runs
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.page.study import Header, Study, header, span, studies, tuner, values
from analysis.run import archive as run_archive

FILE = """# @package _global_
# Study (x), short: which of a and
# b is better? Nobody knows.
#   python -m bench.study +sweeps=study_x              (all of it)
#   python -m analysis.tables source=runs \\
#     sweep=study_x
# Cost: 3 runs.
sweep: study_x
# not of the header: a later comment
"""


def archive(root: Path, path: Path) -> Path:
    run_archive.write(path, run_archive.gather(root))
    return path


def test_the_header_of_a_sweep_file(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text(FILE)
    found = header(tmp_path / "x.yaml")
    assert found.text == (
        "Study (x), short: which of a and b is better? Nobody knows. Cost: 3 runs."
    )
    assert found.question == "Study (x), short: which of a and b is better?"
    assert found.commands == (
        "python -m bench.study +sweeps=study_x",
        "python -m analysis.tables source=runs sweep=study_x",
    )
    (tmp_path / "x.yaml").write_text("# Is it? Do it all:\n#   a\n# in steps:\n#   b\n# Cost: 3.\n")
    assert header(tmp_path / "x.yaml") == Header("Is it? Cost: 3.", ("a", "b"))
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
