from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import study_runs
from analysis.table.comparisons import compare

from analysis.page.budget import budgets
from analysis.page.study import Header, Output, Study
from analysis.page.table import Results, results
from analysis.page.verdict import Missing, contrasts, section, sentences, short
from analysis.run import archive
from analysis.runs import load_runs

ADAMW = [0.901, 0.903, 0.902, 0.905, 0.900]
MUON = [0.921, 0.922, 0.925, 0.926, 0.919]
NOISY = [0.910, 0.930, 0.921, 0.914, 0.937]


def found_in(root: Path, first: str | None = None) -> tuple[Results, Study]:
    archive.write(root.with_suffix(".parquet"), archive.gather(root))
    study = Study("study_x", Header("", ()), root.with_suffix(".parquet"))
    (found,) = results(study.runs, budgets(study.tuning), first)
    return found, study


def said(root: Path, first: str | None = None) -> str:
    return sentences(*found_in(root, first))


def said_shortly(root: Path, first: str | None = None) -> list[str]:
    return short(found_in(root, first)[0])


def test_the_verdict_says_what_the_table_says(runs: Any, tmp_path: Path) -> None:
    accuracies = {"adamw": ADAMW, "muon": MUON, "spectral_newton": NOISY, "sgd": ADAMW[::-1]}
    root = study_runs.study(runs, tmp_path / "runs", accuracies)
    text = said(root)
    start = (
        "On convnet / digits (20 epochs, 5 seeds, 2 tuning trials each, Accelerator 9000),"
        " `spectral_newton` ends at test/accuracy 92.24 ["
    )
    assert text.startswith(start)
    assert "] %: better than `adamw` (+2.02 [" in text
    assert " and not shown to differ from `muon` (-0.02 [" in text
    assert text.count("points, corrected p ") == 2
    assert "An epoch takes 1.00 times as long as with `adamw`." in text
    assert text.endswith("Others against `adamw`: better `muon`; no difference shown for `sgd`.")
    assert said_shortly(root) == [
        "`spectral_newton` is better than `adamw`; not shown to differ from `muon`",
        "others against `adamw`: better `muon`; no difference shown for `sgd`",
    ]


def test_without_the_subject_rows_are_told_by_their_verdicts(runs: Any, tmp_path: Path) -> None:
    alike = [ADAMW[-k:] + ADAMW[:-k] for k in range(1, 5)]
    accuracies = {"adam": ADAMW, "nadam": MUON, "sgd": [a - 0.05 for a in MUON], "lion": alike[0]}
    root = study_runs.study(runs, tmp_path / "runs", accuracies)
    told = "against `adam`: better `nadam`; worse `sgd`; no difference shown for `lion`"
    assert said_shortly(root, "adam") == [told]
    assert said(root, "adam") == (
        f"On convnet / digits (20 epochs, 5 seeds, 2 tuning trials each, Accelerator 9000), {told}."
    )
    assert said_shortly(root) == [] and said(root) == ""  # with nothing to compare with
    more = dict(zip(("soap", "shampoo", "kfac"), alike[1:], strict=True))
    study_runs.study(runs, root, more)
    assert said_shortly(root, "adam") == [
        "against `adam`: better `nadam`; worse `sgd`; no difference shown for the 4 others"
    ]
    few = study_runs.study(runs, tmp_path / "few", {"adam": ADAMW, "lion": alike[0], **more})
    assert said_shortly(few, "adam") == ["against `adam`: no difference shown for any of 4"]


@pytest.mark.parametrize(("shift", "word"), [(0.05, "better"), (-0.05, "worse")])
def test_better_and_worse_follow_the_numbers(
    runs: Any, tmp_path: Path, shift: float, word: str
) -> None:
    newton = [value + shift for value in ADAMW[1:] + ADAMW[:1]]
    text = said(
        study_runs.study(runs, tmp_path / "runs", {"adamw": ADAMW, "spectral_newton": newton})
    )
    assert f"{word} than `adamw`" in text
    assert "muon" not in text
    assert "Others" not in text


def test_what_is_unfair_or_unfinished_is_said(runs: Any, tmp_path: Path) -> None:
    root = study_runs.study(runs, tmp_path / "runs", {"adamw": ADAMW})
    config = runs.config("spectral_newton", 0, sweep="study_x")
    study_runs.write(runs, root, config, 0.95, device="Another")
    text = said(root)
    assert "1 seed of 5, unequal tuning, Another" in text
    assert "not tested against `adamw` (+4.90 (1 pair) points)" in text
    assert "An epoch" not in text


def test_a_slower_epoch_is_more_times_as_long(runs: Any, tmp_path: Path) -> None:
    root = study_runs.study(runs, tmp_path / "runs", {"adamw": ADAMW}, seconds=2.0)
    study_runs.study(runs, root, {"spectral_newton": MUON}, seconds=3.0)
    assert "An epoch takes 1.50 times as long as with `adamw`." in said(root)


def test_a_map_of_settings_has_no_verdict(runs: Any, tmp_path: Path) -> None:
    root = study_runs.study(runs, tmp_path / "runs", {"adamw": ADAMW, "spectral_newton": MUON})
    assert "`spectral_newton`" in said(root)
    config = runs.config("spectral_newton", 0, sweep="study_x", optimizer__lr=0.7)
    study_runs.write(runs, root, config, 0.95)
    assert said(root) == "" and said_shortly(root) == []


def test_no_subject_no_verdict(runs: Any, tmp_path: Path) -> None:
    only = study_runs.study(runs, tmp_path / "runs", {"adamw": ADAMW})
    assert said(only) == "" and said_shortly(only) == []
    alone = study_runs.study(runs, tmp_path / "alone", {"spectral_newton": ADAMW}, rates=())
    assert said(alone).endswith("ends at test/accuracy 90.22 [89.98, 90.46] %.")
    assert "untuned" in said(alone)


def test_a_loss_is_in_nats_and_lower_is_better(runs: Any, tmp_path: Path) -> None:
    root = tmp_path / "runs"
    for name, shift in (("adamw", 0.3), ("muon", 0.2), ("spectral_newton", 0.0)):
        for seed, loss in enumerate([3.0, 3.1, 3.05, 3.2, 3.15]):
            config = runs.config(name, seed, sweep="study_x")
            noise = 0.001 * ((seed * len(name)) % 3)
            more = {"tokens_per_second": 5.0, "test/loss": loss + shift + noise}
            study_runs.write(runs, root, config, 0.5, **more)
    text = said(root)
    assert "ends at test/loss 3.1" in text
    assert "] nats (lower is better): better than `adamw` (-0.3" in text
    assert text.count(" nats, corrected p") == 2
    assert text.endswith("Others against `adamw`: better `muon`.")


ACCURACIES = {
    "a": [0.930, 0.931, 0.934, 0.936, 0.928],
    "b": [0.901, 0.903, 0.902, 0.905, 0.900],
    "c": [0.929, 0.933, 0.933, 0.937, 0.927],
    "d": [0.5],
}
PAIRS = [("a", "b"), ("a", "c"), ("b", "a"), ("a", "d"), ("a", "absent")]


@pytest.fixture
def report(runs: Any, tmp_path: Path) -> pd.DataFrame:
    return of(study_runs.study(runs, tmp_path / "runs", ACCURACIES))


def of(root: Path) -> pd.DataFrame:
    whole = load_runs(root)
    return whole[whole["sweep"] == "study_x"].reset_index(drop=True)


def one_floor(base: str) -> float:
    """Half the median spread of differences to ``base``, of every row that has two pairs."""
    spreads = [
        float(np.std(np.subtract(values, ACCURACIES[base]), ddof=1))
        for name, values in ACCURACIES.items()
        if name != base and len(values) == len(ACCURACIES[base]) > 1
    ]
    return 0.5 * float(np.median(spreads)) if spreads else 0.0


@pytest.mark.parametrize("looks", [1, 2])
def test_pairs_are_compared_by_seed_and_corrected_together(
    report: pd.DataFrame, looks: int
) -> None:
    found, missing = contrasts(report, PAIRS, looks)
    assert [(pair.method, pair.other) for pair, _ in found] == PAIRS[:4]
    assert missing == [Missing("a", "absent", "absent", several=False)]
    by_hand = [np.subtract(ACCURACIES[a][:n], ACCURACIES[b][:n]) for a, b, n in
               [("a", "b", 5), ("a", "c", 5), ("b", "a", 5), ("a", "d", 1)]]  # fmt: skip
    expected = compare(by_hand, looks=looks, floors=[one_floor(other) for _, other in PAIRS[:4]])
    for (_, one), other in zip(found, expected, strict=True):
        assert (one.n, one.verdict) == (other.n, other.verdict)
        assert one.difference == pytest.approx(other.difference)
        assert one.adjusted_p == pytest.approx(other.adjusted_p, nan_ok=True)
    assert [one.verdict for _, one in found] == ["better", "not shown", "worse", "not shown"]


def test_the_section_and_the_answers_in_short(report: pd.DataFrame) -> None:
    out = Output("figures")
    text = section(report, PAIRS, 3, out)
    assert "| `a` against `b` | +2.96 [" in text and "| 5 | **better** | p" in text
    assert "| `a` against `d` | +43.00 (1 pair) | 1 | not tested | – | – |" in text
    assert "- `a` and `absent` are not compared: absent has no run." in text
    assert "Corrected among themselves" in text
    assert "- test/accuracy, in points: mean difference paired by seed [95 % interval]" in text
    assert "over 3 comparisons and 3 looks (" in text
    assert out.answers == [
        "`a` is better than `b`; not shown to differ from `c`", "`b` is worse than `a`",
    ]  # fmt: skip


def test_nothing_asked_nothing_said(report: pd.DataFrame) -> None:
    out = Output("figures")
    assert section(report, [], 1, out) == ""
    text = section(report, [("a", "absent")], 1, out)
    assert text == "### Asked besides\n\n- `a` and `absent` are not compared: absent has no run.\n"
    assert out.answers == []


def test_a_seed_that_diverged_flatters_nobody(runs: Any, tmp_path: Path) -> None:
    root = study_runs.study(runs, tmp_path / "runs", {"b": ACCURACIES["b"]})
    for seed, accuracy in enumerate(ACCURACIES["a"]):
        state = "diverged" if seed == 4 else "done"
        config = runs.config("a", seed, sweep="study_x")
        study_runs.write(runs, root, config, accuracy, state=state)
    ((_, one),), _ = contrasts(of(root), [("a", "b")])
    assert (one.n, one.verdict) == (4, "not shown")
    assert one.adjusted_p < 0.05


def test_an_optimizer_of_several_settings_is_no_row(runs: Any, tmp_path: Path) -> None:
    root = study_runs.study(runs, tmp_path / "runs", {"a": [0.9, 0.91], "b": [0.8, 0.82]})
    other = runs.config("a", 2, sweep="study_x", optimizer__lr=0.5)
    study_runs.write(runs, root, other, 0.9)
    found = contrasts(of(root), [("a", "b")])
    assert found == ([], [Missing("a", "b", "a", several=True)])
    text = section(of(root), [("a", "b")], 1, Output("figures"))
    assert "- `a` and `b` are not compared: a has several settings.\n" in text


def test_places_are_told_apart(runs: Any, tmp_path: Path) -> None:
    root = tmp_path / "runs"
    for model in ("convnet", "mlp"):
        for name in ("a", "b"):
            for seed, accuracy in enumerate(ACCURACIES[name]):
                config = runs.config(name, seed, sweep="study_x", names__model=model)
                study_runs.write(runs, root, config, accuracy)
    out = Output("figures")
    text = section(of(root), [("a", "b")], 1, out)
    assert "| on convnet / digits `a` against `b` |" in text
    assert out.answers == [f"on {model} / digits `a` is better than `b`"
                           for model in ("convnet", "mlp")]  # fmt: skip


def test_exact_tests_say_what_their_seeds_can_show(runs: Any, tmp_path: Path) -> None:
    accuracies = {"a": [0.9 + k / 1000 for k in range(10)], "b": [0.8] * 10}
    report = of(study_runs.study(runs, tmp_path / "runs", accuracies))
    text = section(report, [("a", "b")], 4, Output("figures"))
    least = 4 * 2 / 2**10
    assert f"with 10 seeds its least corrected p is {least:.3g}, when every seed" in text
    assert f"p = {least:.3f} | sign flips |" in text
