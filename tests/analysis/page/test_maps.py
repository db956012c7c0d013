from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import map_runs
import numpy as np
import pandas as pd
import pytest
import study_runs
from scipy import stats

from analysis.page.budget import Budget
from analysis.page.maps import Map, Setting, axes_of, build, of_places, sections
from analysis.page.results import pages
from analysis.page.study import Header, Output, Study
from analysis.run import archive
from analysis.runs import load_runs

AXES = ("config.optimizer.alpha", "config.optimizer.damping")


def at(found: Map, *values: float) -> Setting:
    (one,) = [one for one in found.settings if one.values == values]
    return one


def test_settings_that_no_tuning_chose_make_a_map(runs: Any, tmp_path: Path) -> None:
    found = load_runs(map_runs.write(runs, tmp_path))
    assert axes_of(found, {}) == {map_runs.PLACE: AXES}
    tuned = {map_runs.PLACE: Budget(keys=("config.optimizer.lr", AXES[0]))}
    assert axes_of(found, tuned) == {map_runs.PLACE: AXES[1:]}
    assert axes_of(found, {map_runs.PLACE: Budget(keys=AXES)}) == {}
    assert of_places(found, [map_runs.PLACE]).all()
    assert not of_places(found, [("digits", "convnet", "adamw")]).any()
    assert not of_places(found, []).any()


def test_learning_rates_alone_make_none(runs: Any, tmp_path: Path) -> None:
    for rate in (0.1, 0.2):
        one = runs.config("adamw", 0, sweep="study_m", optimizer__lr=rate)
        study_runs.write(runs, tmp_path, one, 0.9)
    assert axes_of(load_runs(tmp_path), {}) == {}


def test_two_files_of_measured_exponents_make_none(runs: Any, tmp_path: Path) -> None:
    for number in range(2):
        exponents = tmp_path / f"{number}.parquet"
        exponents.write_bytes(bytes([number]))
        changes = {"optimizer__exponents": str(exponents), "optimizer__alpha": "measured"}
        one = runs.config("spectral_newton", 0, sweep="study_m", **changes)
        study_runs.write(runs, tmp_path / "runs", one, 0.9)
    found = load_runs(tmp_path / "runs")
    assert len(found) == 2 and axes_of(found, {}) == {}


def test_words_come_first_then_few_numbers(runs: Any, tmp_path: Path) -> None:
    map_runs.write(runs, tmp_path)
    setting = {"alpha": 1.0, "damping": 0.5, "normalize": "none", "lr": 0.02}
    study_runs.write(runs, tmp_path, map_runs.config(runs, setting, 0, "study_m"), 0.5)
    (axes,) = axes_of(load_runs(tmp_path), {}).values()
    assert axes == ("config.optimizer.normalize", *AXES)


def test_each_setting_is_shown_at_its_best_rate(runs: Any, tmp_path: Path) -> None:
    found = build(load_runs(map_runs.write(runs, tmp_path)), map_runs.PLACE, AXES)
    assert found.rates == map_runs.RATES
    assert [one.values for one in found.settings] == [(1, 0.01), (1, 0.1), (2, 0.01), (2, 0.1)]
    assert found.chosen_by == "val/accuracy"
    one = at(found, 1.0, 0.1)
    assert (one.rate, one.end, one.cell.n, one.cell.expected) == (0.08, 1, 2, 2)
    assert one.cell.mean == pytest.approx(0.911)  # of lr 0.08 alone: no mean over rates
    assert found.best is at(found, 2.0, 0.01)


def test_a_rate_that_lost_a_seed_is_not_the_best(runs: Any, tmp_path: Path) -> None:
    for rate, seed in ((0.02, 0), (0.02, 1), (0.08, 0), (0.08, 1)):
        for damping in (0.1, 0.5):
            setting = {"damping": damping, "lr": rate}
            one = map_runs.config(runs, setting, seed, "study_m")
            lost = (rate, seed) == (0.08, 1) or damping == 0.5
            study_runs.write(runs, tmp_path, one, rate, state="diverged" if lost else "done")
    found = build(load_runs(tmp_path), map_runs.PLACE, AXES[1:])
    good, bad = found.settings
    assert (good.rate, good.end, good.diverged, good.cell.n) == (0.02, -1, 1, 2)
    assert (bad.rate, bad.end, bad.diverged, bad.cell.n) == (None, 0, 4, 0)
    assert found.best is good


def test_what_else_differs_is_not_averaged_over(runs: Any, tmp_path: Path) -> None:
    for epochs in (4, 8):
        for damping in (0.1, 0.01):
            one = runs.config(
                "spectral_newton", 0, sweep="study_m", trainer__epochs=epochs,
                optimizer__damping=damping,
            )  # fmt: skip
            study_runs.write(runs, tmp_path, one, 0.1 * epochs)
    found = build(load_runs(tmp_path), map_runs.PLACE, AXES[1:])
    assert [(one.values[0], one.also) for one in found.settings] == [
        (0.01, "trainer.epochs=4"), (0.01, "trainer.epochs=8"),
        (0.1, "trainer.epochs=4"), (0.1, "trainer.epochs=8"),
    ]  # fmt: skip
    assert {one.cell.n for one in found.settings} == {1}


def test_the_end_of_the_rates_is_that_of_the_setting_itself(runs: Any, tmp_path: Path) -> None:
    for damping, rates in ((0.1, (0.1, 0.2)), (0.01, (0.1, 0.2, 0.4)), (0.001, (0.4,))):
        for rate in rates:
            one = map_runs.config(runs, {"damping": damping, "lr": rate}, 0, "study_m")
            study_runs.write(runs, tmp_path, one, rate)
    found = build(load_runs(tmp_path), map_runs.PLACE, AXES[1:])
    assert found.rates == (0.1, 0.2, 0.4)
    assert [(one.rate, one.end) for one in found.settings] == [(0.4, 0), (0.4, 1), (0.2, 1)]


def test_of_losses_the_least_on_validation_data_chooses(runs: Any, tmp_path: Path) -> None:
    for damping in (0.1, 0.01):
        for rate, validation, test in ((0.1, 2.0, 1.0), (0.2, 1.0, 3.0), (0.4, 1.0, 0.5)):
            one = map_runs.config(runs, {"damping": damping, "lr": rate}, 0, "study_m")
            ends = {"tokens_per_second": 1.0, "test/loss": test + damping}
            study_runs.write(runs, tmp_path, one, 1 - validation, **ends)
    found = build(load_runs(tmp_path), map_runs.PLACE, AXES[1:])
    assert (found.table.metric, found.chosen_by) == ("test/loss", "val/loss")
    assert [(one.rate, one.cell.mean) for one in found.settings] == [(0.2, 3.01), (0.2, 3.1)]
    assert found.best is at(found, 0.01)


def test_a_list_is_a_value_like_others(runs: Any, tmp_path: Path) -> None:
    for betas in ([0.9, 0.95], [0.9, 0.99]):
        one = runs.config("adamw", 0, sweep="study_m", optimizer__betas=betas)
        study_runs.write(runs, tmp_path, one, 0.5)
    found = build(
        load_runs(tmp_path), ("digits", "convnet", "adamw"), ("config.optimizer.betas",)
    )  # fmt: skip
    assert [(one.values, one.also) for one in found.settings] == [
        (("[0.9, 0.95]",), ""), (("[0.9, 0.99]",), "")
    ]  # fmt: skip


def test_places_of_a_table_of_measured_layers() -> None:
    table = pd.DataFrame({"dataset": ["d", "d"], "model": ["m", "n"], "optimizer": ["o", "o"]})
    assert of_places(table, [("d", "n", "o")]).tolist() == [False, True]


def kept(root: Path) -> Study:
    path = root.with_name("study_m.parquet")
    archive.write(path, archive.gather(root))
    return Study("study_m", Header("A map?", ()), path)


def markdown_of(study: Study, out: Output | None = None) -> str:
    places = axes_of(study.runs, {})
    return "\n".join(sections(study, places, out or Output("figures")))


def test_every_setting_has_its_own_number(runs: Any, tmp_path: Path) -> None:
    out = Output("figures")
    text = markdown_of(kept(map_runs.write(runs, tmp_path / "runs")), out)
    assert "### digits" not in text
    assert "### convnet / digits: spectral_newton by alpha, damping" in text
    assert "| alpha | damping=0.01 | damping=0.1 |" in text
    assert "| 1 | 92.10 (lr 0.08 ↑, 2/2) | 91.10 (lr 0.08 ↑, 2/2) |" in text
    assert "| 2 | **93.10** (lr 0.08 ↑, 2/2) | 92.10 (lr 0.08 ↑, 2/2) |" in text
    assert "rates tried (0.02, 0.08)" in text
    assert "nothing is tested" in text
    assert "differ by a standard deviation of 0.14 points" in text
    assert "- 16 of 16 runs used." in text
    assert "beyond. Device: Accelerator 9000.\n" in text and "of 1 tried" not in text
    half = stats.t.ppf(0.975, 8) * math.sqrt(2) * 0.1 / math.sqrt(2)  # 8 pairs of seeds
    assert f"the 95 % interval of a mean of 2 ± {half:.2f} (8 degrees of freedom)" in text
    (name,) = out.figures
    assert f"(figures/{name})" in text
    assert sum(len(rings.get_offsets()) for rings in out.figures[name].axes[0].collections) == 4


def test_spectra_explain_it(runs: Any, tmp_path: Path) -> None:
    text = markdown_of(kept(map_runs.write(runs, tmp_path / "runs")))
    assert "at epoch 4: the singular values of the gradient in 2" in text
    assert "30 % of its ||G||^2" in text
    answer = text.splitlines()[2]
    assert re.search(r"make `alpha=1, damping=0.1` \(slope \+0.\d\d, 91.10 %\) the most l", answer)
    assert "`alpha=1, damping=0.01`" in answer
    assert "beyond Muon is `alpha=2, damping=0.01` (slope -" in answer
    slopes = text[text.index("#### Measured spectra") :]
    (row,) = re.findall(r"^\| 2 \| (-0\.\d\d) \[", slopes, re.MULTILINE)
    assert float(row) < 0


def test_the_best_mean_is_told_with_what_it_does_not_differ_from(runs: Any, tmp_path: Path) -> None:
    clear = markdown_of(kept(map_runs.write(runs, tmp_path / "clear" / "runs")))
    assert "; 0 of the 3 others lie within two standard errors of it." in clear.splitlines()[2]
    # Two seeds 0.75 points apart: a mean's standard error is 0.375, a difference's 0.53.
    out = Output("figures")
    noisy = markdown_of(kept(map_runs.write(runs, tmp_path / "noisy" / "runs", noise=0.0075)), out)
    assert "; 2 of the 3 others lie within two standard errors of it." in noisy.splitlines()[2]
    assert out.answers == [
        "most like SGD `alpha=1, damping=0.1`, most like Muon `alpha=1, damping=0.01`",
        "untuned, the best mean is that of `alpha=2, damping=0.01`, with 2 of the 3 others near it",
    ]
    alike = Output("figures")
    markdown_of(kept(map_runs.write(runs, tmp_path / "alike" / "runs", noise=0.05)), alike)
    assert alike.answers[1] == "untuned, no setting stands out of 4"


def test_a_setting_that_lacks_rates_says_so(runs: Any, tmp_path: Path) -> None:
    root = tmp_path / "runs"
    for damping, rate in ((0.1, 0.02), (0.1, 0.08), (0.5, 0.02)):
        one = map_runs.config(runs, {"damping": damping, "lr": rate}, 0, "study_m")
        study_runs.write(runs, root, one, 0.9)
    failed = map_runs.config(runs, {"damping": 0.5, "lr": 0.08}, 0, "study_m")
    study_runs.write(runs, root, failed, None, state="failed")
    text = markdown_of(kept(root))
    assert "(lr 0.02 ↓, 1/1) | **90.00** (lr 0.02 of 1 tried, 1/1) |" in text
    assert '"of 1 tried": the others have no run yet' in text


def test_without_spectra_the_map_stands_alone(runs: Any, tmp_path: Path) -> None:
    root = tmp_path / "runs"
    for damping in (0.1, 0.5):
        one = map_runs.config(runs, {"damping": damping}, 0, "study_m")
        study_runs.write(runs, root, one, 0.9, state="diverged" if damping == 0.5 else "done")
    out = Output("figures")
    text = markdown_of(kept(root), out)
    assert "| **90.00** (lr 0.001, 1/1) | – (1 diverged) |" in text
    assert "singular values" not in text
    assert out.figures == {}


def test_a_map_is_beside_the_table_and_not_in_it(runs: Any, tmp_path: Path) -> None:
    root = map_runs.write(runs, tmp_path / "runs")
    for name in ("adamw", "muon"):
        study_runs.write(runs, root, runs.config(name, 0, sweep="study_m"), 0.8)
    page, _, _ = pages([kept(root)], "figures")
    table = page[page.index("### convnet / digits\n") : page.index("### convnet / digits: spec")]
    assert "| adamw | 80.00 (1/2, partial)" in table or "| adamw | **80.00" in table
    assert "spectral_newton" not in table
    assert "by alpha, damping" in page
    assert "### Exponents" not in page  # a mean over settings means nothing


def measured_runs(runs: Any, root: Path, settings: list[dict[str, Any]]) -> Study:
    for number, setting in enumerate(settings):
        epochs = setting.pop("epochs", 4)
        whole = {"alpha": 2.0, "normalize": "frobenius", "lr": 0.1, **setting}
        changes = {f"optimizer__{name}": value for name, value in whole.items()}
        changes |= {"optimizer___target_": "optimizers.SpectralNewton", "trainer__epochs": epochs}
        one = runs.config("spectral_newton", 0, sweep="study_m", **changes)
        map_runs.measured(study_runs.write(runs, root, one, 0.5 + 0.1 * number))
    return kept(root)


def test_what_is_no_axis_has_lines_and_words_of_its_own(runs: Any, tmp_path: Path) -> None:
    settings = [{"damping": d, "epochs": n} for n in (4, 8) for d in (0.1, 0.01)]
    out = Output("figures")
    text = markdown_of(measured_runs(runs, tmp_path / "runs", settings), out)
    (figure,) = out.figures.values()
    labels = [line.get_label() for line in figure.axes[0].lines]
    assert labels == ["trainer.epochs=4", "trainer.epochs=8"]
    assert "the best is that of `damping=0.01 trainer.epochs=8` (slope" in text


def test_an_axis_may_have_a_value_that_is_missing(runs: Any, tmp_path: Path) -> None:
    settings = [{"damping": d, "clip": c} for d in (0.1, 0.01) for c in (2.0, None, 10.0)]
    out = Output("figures")
    text = markdown_of(measured_runs(runs, tmp_path / "runs", settings), out)
    assert "| damping | clip=null | clip=2 | clip=10 |" in text
    (figure,) = out.figures.values()
    for rings in figure.axes[0].collections:  # the larger, the later along the last axis
        sizes = rings.get_sizes()
        assert len(sizes) == 3 and (np.diff(sizes) > 0).all()
