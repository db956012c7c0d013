from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import study_runs

from analysis.page.contrasts import contrasts, section
from analysis.page.output import Output
from analysis.runs import load_runs
from analysis.table.comparisons import compare

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
    assert missing == ["`a` and `absent` are not compared: absent has no run."]
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
    assert found == ([], ["`a` and `b` are not compared: a has several settings."])


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
