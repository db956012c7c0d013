from __future__ import annotations

import itertools
import math
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import study_runs
from scipy import stats

from analysis.judge.section import Plan
from analysis.page.budget import RED, budgets
from analysis.page.table import Results, comparison, markdown, metric_of, p_words, results
from analysis.runs import load_history, load_runs

ACCURACIES = {
    "adamw": [0.901, 0.903, 0.902, 0.905, 0.900, 0.904, 0.899, 0.902],
    "muon": [0.921, 0.922, 0.925, 0.926, 0.919, 0.923, 0.920, 0.924],
    "sgd": [0.900, 0.904, 0.901, 0.906, 0.899, 0.905, 0.898, 0.903],
    "spectral_newton": [0.93, 0.931, 0.934, 0.936, 0.928, 0.935, 0.929, 0.932],
}


def built(root: Path, first: str | None = None) -> list[Results]:
    runs = load_runs(root)
    report, tuning = (runs[runs["sweep"] == name] for name in ("study_x", "study_x_tune"))
    return results(report, budgets(tuning), first)


def cells(found: Results) -> dict[str, list[str]]:
    lines = [
        [cell.strip() for cell in line.strip("|").split(" | ")]
        for line in markdown(found).splitlines()
    ]
    return {line[0]: line[1:] for line in lines}


def step_down(differences: list[Any]) -> list[float]:
    """Return the p of each comparison, all patterns of signs tried one by one."""
    unit = np.array([d / np.sqrt(np.sum(d**2)) for d in differences])
    flips = [np.abs(unit @ signs) for signs in itertools.product((1, -1), repeat=unit.shape[1])]
    observed = np.abs(unit.sum(axis=1))
    p, least = np.zeros(len(unit)), 0.0
    for k in np.argsort(-observed):
        left = observed <= observed[k] + 1e-12
        least = max(least, np.mean([flip[left].max() >= observed[k] - 1e-9 for flip in flips]))
        p[k] = least
    return list(p)


def test_every_number_of_the_table(runs: Any, tmp_path: Path) -> None:
    accuracies = {**ACCURACIES, "lion": [0.921, 0.912, 0.917, 0.896, 0.922, 0.907, 0.918, 0.915]}
    (found,) = built(study_runs.study(runs, tmp_path, accuracies))
    assert (found.dataset, found.model) == ("digits", "convnet")
    table = cells(found)
    assert table["optimizer"] == [
        "test/accuracy [95 %]", "trials", "settings", "s/epoch", "device",
        "vs adamw [95 %], corrected p, found afterwards",
        "vs muon [95 %], corrected p, found afterwards", "steps to target", "s to target",
    ]  # fmt: skip
    ours = 100 * np.array(ACCURACIES["spectral_newton"])
    low, high = stats.t.interval(0.95, 7, ours.mean(), stats.sem(ours))
    newton = table["spectral_newton"]
    assert newton[0] == f"**{ours.mean():.2f} [{low:.2f}, {high:.2f}]** (8/8)"
    assert newton[1:3] == ["2", "lr=0.01"]
    assert newton[3:5] == ["1.500 [1.500, 1.500]", "Accelerator 9000"]
    assert newton[7:] == ["20.0 (8 of 8)", "9.000 (8 of 8)"]
    # Both baselines' columns are one family.
    pairs = [(name, base) for base in ("adamw", "muon") for name in accuracies if name != base]
    p = step_down([np.subtract(accuracies[name], accuracies[base]) for name, base in pairs])
    expected = dict(zip(pairs, p, strict=True))
    difference = ours - 100 * np.array(ACCURACIES["adamw"])
    low, high = stats.t.interval(0.95, 7, difference.mean(), stats.sem(difference))
    assert newton[5] == (
        f"{difference.mean():+.2f} [{low:+.2f}, {high:+.2f}] **better**,"
        f" {p_words(expected['spectral_newton', 'adamw'])}"
    )
    assert table["sgd"][5].endswith(f"undecided, {p_words(expected['sgd', 'adamw'])}")
    assert table["lion"][5].endswith(f" {p_words(expected['lion', 'adamw'])}")
    assert expected["lion", "adamw"] > 2 / 2**8  # more than its own
    assert table["sgd"][6].endswith(f"**worse**, {p_words(expected['sgd', 'muon'])}")
    assert table["adamw"][5] == table["muon"][6] == "–"
    notes = "\n".join(found.notes)
    assert notes.count("by step-down max-T sign flips over 7 comparisons of this section") == 1
    assert "found afterwards: not registered." in notes
    assert "Kaplan-Meier" in notes


def test_partial_diverged_and_unequal_rows_are_marked(runs: Any, tmp_path: Path) -> None:
    root = study_runs.study(runs, tmp_path, {n: ACCURACIES[n] for n in ("adamw", "muon")})
    config = runs.config("sgd", 0, sweep="study_x", optimizer__lr=1e-2)
    study_runs.write(runs, root, config, 0.99, target=None)
    config = runs.config("sgd", 1, sweep="study_x", optimizer__lr=1e-2)
    study_runs.write(runs, root, config, 0.99, state="diverged")
    lost = runs.config("lion", 0, sweep="study_x", optimizer__lr=1e-2)
    study_runs.write(runs, root, lost, 0.99, state="diverged")
    (found,) = built(root)
    table = cells(found)
    assert table["sgd"][0] == "99.00 (1/8, partial, 1 diverged)"
    assert table["sgd"][1] == f"0 {RED}"
    assert table["sgd"][5] == "+8.90 (1 pair)"
    assert table["sgd"][7] == "missed (0 of 2)"
    assert table["muon"][0].startswith("**92.25")
    assert table["muon"][1] == "2"
    assert table["lion"][0] == "– (0/8, partial, 1 diverged)"
    assert table["lion"][2:5] == ["–", "–", "–"]


def test_a_row_whose_runs_shared_their_device_has_no_times_and_the_others_do(
    runs: Any, tmp_path: Path
) -> None:
    root = study_runs.study(runs, tmp_path, ACCURACIES)
    study_runs.study(runs, tmp_path, {"lion": [0.92, 0.91, 0.93]}, packed=4)
    (found,) = built(root)
    table = cells(found)
    assert table["lion"][3] == "–" and table["lion"][-1].startswith("–")
    assert table["lion"][4] == "Accelerator 9000, 4 runs at once"
    assert table["muon"][3] == "1.500 [1.500, 1.500]" and table["muon"][-1] == "9.000 (8 of 8)"
    assert any(note.startswith("Seconds are withheld of lion: ") for note in found.notes)
    assert found.timed


def test_a_row_is_timed_by_those_of_its_runs_that_had_the_device_alone(
    runs: Any, tmp_path: Path
) -> None:
    root = study_runs.study(runs, tmp_path, ACCURACIES)
    for seed in (8, 9, 10):
        config = runs.config("muon", seed, sweep="study_x", optimizer__lr=1e-2, tuned=True)
        state = "diverged" if seed == 10 else "done"
        study_runs.write(runs, root, config, 0.9, packed=4, seconds=7.0, state=state)
    (found,) = built(root)
    table = cells(found)
    assert table["muon"][3] == "1.500 [1.500, 1.500]" and table["muon"][-1] == "9.000 (8 of 8)"
    assert table["muon"][4] == "Accelerator 9000, 1 or 4 runs at once"
    (note,) = [note for note in found.notes if note.startswith("Seconds are withheld of ")]
    assert note.startswith("Seconds are withheld of 2 of 10 runs of muon: ")
    assert table["muon"][-2] == "20.0 (10 of 11)"  # shared or not, and one that diverged
    assert "of seconds and joules over those that have them" in "".join(found.notes)


def test_seconds_of_runs_that_all_shared_a_device_are_marked(runs: Any, tmp_path: Path) -> None:
    alone = study_runs.study(runs, tmp_path / "alone", {"adamw": [0.9], "sgd": [0.8]})
    shared = study_runs.study(runs, tmp_path / "all", {"adamw": [0.9], "sgd": [0.8]}, packed=4)
    words = f"{RED} All of these runs shared their device"
    for root, said in ((alone, False), (shared, True)):
        (found,) = built(root)
        assert any(note.startswith(words) for note in found.notes) == said


def test_rows_whose_steps_no_graph_replayed_are_told(runs: Any, tmp_path: Path) -> None:
    root = study_runs.study(runs, tmp_path, {"adamw": [0.9]}, cuda_graph=True)
    study_runs.study(runs, tmp_path, {"sgd": [0.8]}, cuda_graph=None)
    (found,) = built(root)
    assert not any("CUDA graph" in note for note in found.notes)
    study_runs.study(runs, tmp_path, {"soap": [0.8]}, cuda_graph=False)
    (found,) = built(root)
    (note,) = [note for note in found.notes if "CUDA graph" in note]
    assert note.startswith("Steps of soap were launched from Python")


def test_verdicts_count_the_interim_analyses(runs: Any, tmp_path: Path) -> None:
    root = study_runs.study(runs, tmp_path, ACCURACIES)
    runs_of = load_runs(root)
    report = runs_of[runs_of["sweep"] == "study_x"]
    plans = (Plan(), Plan(looks=3))
    once, thrice = (results(report, {}, judging=lambda _, plan=plan: plan)[0] for plan in plans)
    p = [
        next(row.against["adamw"].adjusted_p for row in found.rows if row.optimizer == "muon")
        for found in (once, thrice)
    ]
    assert p[1] == 3 * p[0] < 1
    words = "over 5 comparisons of this section, times 3 interim analyses ("
    assert any(words in note for note in thrice.notes)
    assert not any("interim" in note for note in once.notes)


def test_times_of_two_devices_are_withheld(runs: Any, tmp_path: Path) -> None:
    root = study_runs.study(runs, tmp_path, {"adamw": [0.9, 0.91]})
    for seed in (0, 1):
        config = runs.config("muon", seed, sweep="study_x")
        study_runs.write(runs, root, config, 0.9, device="Another")
    (found,) = built(root)
    assert not found.timed
    assert [one.metric for one in found.targets] == ["target/step"]
    table = cells(found)
    assert table["adamw"][3] == "–"
    assert [table[name][4] for name in ("adamw", "muon")] == ["Accelerator 9000", "Another"]
    assert len(table["optimizer"]) == 8
    study_runs.write(runs, root, runs.config("muon", 2, sweep="study_x"), 0.9)
    assert cells(built(root)[0])["muon"][4] == "Accelerator 9000, Another"
    assert any(note.startswith("Seconds withheld: ") and "2 device" in note for note in found.notes)


def test_without_a_baseline_or_with_two_of_it(runs: Any, tmp_path: Path) -> None:
    root = study_runs.study(runs, tmp_path, {"sgd": [0.9, 0.91], "adamw": [0.9, 0.91]})
    for seed in (0, 1):
        config = runs.config("adamw", seed, sweep="study_x", optimizer__lr=0.5)
        study_runs.write(runs, root, config, 0.8)
    (found,) = built(root)
    assert found.baselines == ()
    assert [row.label for row in found.rows] == ["adamw lr=0.01", "adamw lr=0.5", "sgd"]
    assert "No row adamw in this study." in found.notes
    assert "No row muon in this study." in found.notes
    assert cells(found)["adamw lr=0.5"][2] == f"lr=0.5 {RED} not among its trials"


def test_where_no_usual_baseline_is_there_the_studys_first_is_one(
    runs: Any, tmp_path: Path
) -> None:
    named = {"adam": ACCURACIES["muon"], "sgd": ACCURACIES["adamw"]}
    root = study_runs.study(runs, tmp_path, named)
    (found,) = built(root, first="adam")
    assert found.baselines == ("adam",)
    assert "No row adamw or muon in this study: compared with adam, its first." in found.notes
    assert "**worse**" in cells(found)["sgd"][5]
    assert cells(found)["optimizer"][5] == "vs adam [95 %], corrected p, found afterwards"
    (none,) = built(root, first="lion")  # it was not run
    assert none.baselines == ()
    assert "No row muon in this study." in none.notes


def test_the_usual_baselines_come_before_the_studys_first(runs: Any, tmp_path: Path) -> None:
    root = study_runs.study(runs, tmp_path, {"adamw": [0.9, 0.91], "sgd": [0.8, 0.81]})
    (found,) = built(root, first="sgd")
    assert found.baselines == ("adamw",)
    assert "No row muon in this study." in found.notes


def test_a_run_that_took_longer_than_the_others_is_told(runs: Any, tmp_path: Path) -> None:
    root = study_runs.study(runs, tmp_path, {"adamw": [0.9, 0.91], "sgd": [0.9, 0.92]})
    study_runs.study(runs, root, {"muon": [0.9, 0.91]})
    # The others took 1.5.
    for name, seconds in (("adamw", 1.79), ("sgd", 3.0), ("muon", 1.2)):
        config = runs.config(name, 2, sweep="study_x", optimizer__lr=1e-2, tuned=True)
        study_runs.write(runs, root, config, 0.9, seconds=seconds)
    (found,) = built(root)
    table = cells(found)
    assert table["adamw"][3] == "1.500 [1.500, 1.790]"
    assert table["sgd"][3] == f"1.500 [1.500, 3.000] {RED}"
    assert table["muon"][3] == f"1.500 [1.200, 1.500] {RED}"
    told = [note for note in found.notes if "Uneven" in note]
    assert told == [
        f"{RED} Uneven seconds: 1 of 3 runs of {name}, by a factor of up to {factor} off the"
        " median."
        for name, factor in (("muon", "1.25"), ("sgd", "2.00"))
    ]


def test_places_are_apart_and_corrected_together(runs: Any, tmp_path: Path) -> None:
    root = study_runs.study(runs, tmp_path, {"adamw": [0.9, 0.91], "sgd": [0.9, 0.92]})
    for name in ("adamw", "sgd"):
        for seed in (0, 1):
            config = runs.config(name, seed, sweep="study_x", names__model="mlp")
            config["id"] += "-mlp"
            study_runs.write(runs, root, config, 0.5 + seed / 10, seconds=3.0)
    convnet, mlp = built(root)
    assert (convnet.model, mlp.model) == ("convnet", "mlp")
    assert [row.cell.seconds for row in mlp.rows] == [(3.0, 3.0)] * 2
    assert [row.cell.mean for row in mlp.rows] == pytest.approx([0.55, 0.55])
    assert all("over 2 comparisons" in "".join(one.notes) for one in (convnet, mlp))
    assert mlp.rows[0].budget.trials == 0
    assert convnet.rows[0].budget.trials == 2


def test_language_models_are_judged_by_their_loss(runs: Any, tmp_path: Path) -> None:
    root = study_runs.study(runs, tmp_path, {"adamw": [0.5, 0.6]}, tokens_per_second=5.0)
    assert metric_of(load_runs(root)) == "test/loss"
    assert metric_of(load_runs(root), "val") == "val/loss"
    (found,) = built(root)
    assert found.table.metric == "test/loss"
    assert any("nats" in note and "lower is better" in note for note in found.notes)


def test_a_language_model_beside_others_keeps_its_own_metric(runs: Any, tmp_path: Path) -> None:
    root = study_runs.study(runs, tmp_path, {"adamw": [0.9, 0.91], "sgd": [0.9, 0.92]})
    for name in ("adamw", "sgd"):
        for seed in (0, 1):
            config = runs.config(name, seed, sweep="study_x", names__model="gpt")
            config["id"] += "-gpt"
            tokens = 5.0 if (name, seed) != ("sgd", 1) else None  # one run does not say
            study_runs.write(runs, root, config, 0.5, tokens_per_second=tokens)
    convnet, gpt = built(root)
    assert (convnet.model, convnet.table.metric) == ("convnet", "test/accuracy")
    assert (gpt.model, gpt.table.metric) == ("gpt", "test/loss")
    assert [row.cell.n for row in gpt.rows] == [2, 2]
    assert "over 1 comparison" in "".join(gpt.notes)


def test_p_values_in_words() -> None:
    assert p_words(0.0004) == "p < 0.001"
    assert p_words(0.0466) == "p = 0.047"
    assert p_words(1.0) == "p = 1.000"


def test_a_lone_pair_has_no_test(runs: Any, tmp_path: Path) -> None:
    (found,) = built(study_runs.study(runs, tmp_path, {"adamw": [0.9], "sgd": [0.95]}))
    (sgd,) = [row for row in found.rows if row.label == "sgd"]
    assert comparison(sgd.against["adamw"], found.table) == "+5.00 (1 pair)"
    assert math.isnan(sgd.cell.interval.low)


def test_a_place_without_a_target_beside_one_that_has_it(runs: Any, tmp_path: Path) -> None:
    root = study_runs.study(runs, tmp_path, {"adamw": [0.9, 0.91]})
    config = runs.config("adamw", 0, sweep="study_x", names__model="mlp")
    config["id"] += "-mlp"
    runs.folder(root, config, runs.summary(0.5))
    convnet, mlp = built(root)
    assert [one.metric for one in convnet.targets] == ["target/step", "target/seconds"]
    assert not mlp.targets
    assert not any("Target" in note or note.startswith("No row") for note in mlp.notes)


def test_the_target_is_the_baselines_own_median_where_histories_are_there(
    runs: Any, tmp_path: Path
) -> None:
    root = study_runs.study(runs, tmp_path, ACCURACIES, steps=40)
    frame = load_runs(root)
    report = frame[frame["sweep"] == "study_x"]
    (found,) = results(report, {}, histories=partial(load_history, root))
    aim = np.median(ACCURACIES["adamw"]) * 4 / 4.1  # a curve is its accuracy times e / (e + 0.1)
    epochs = np.arange(1, 5)
    for row in found.rows:
        curves = np.outer(ACCURACIES[row.label], epochs / (epochs + 0.1))
        steps = [
            10 * np.interp(aim, curve, epochs) if curve[-1] >= aim else math.inf for curve in curves
        ]
        there, seconds = row.targets
        assert there is not None and seconds is not None
        assert there.mean == pytest.approx(sorted(steps)[3])  # the lower median of eight
        assert there.reached == sum(map(math.isfinite, steps))
        if math.isfinite(there.mean):  # 30 s of training in all
            assert seconds.mean == pytest.approx(there.mean * 30 / 40)
    (note,) = [note for note in found.notes if note.startswith("Target of ")]
    assert f"val/accuracy {aim:.5g}, interpolated between evaluations 10 steps apart" in note
    assert "the median final value of adamw, 8 runs" in note
