from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import map_runs
import numpy as np
import study_runs
from scipy import stats

from analysis.page.map_section import sections
from analysis.page.maps import axes_of
from analysis.page.results import pages
from analysis.page.study import Header, Output, Study
from analysis.run import archive


def kept(root: Path) -> Study:
    path = root.with_name("study_m.parquet")
    archive.write(path, archive.gather(root))
    return Study("study_m", Header("A map?", ()), path)


def told(study: Study, out: Output | None = None) -> str:
    places = axes_of(study.runs, {})
    return "\n".join(sections(study, places, out or Output("figures")))


def test_every_setting_has_its_own_number(runs: Any, tmp_path: Path) -> None:
    out = Output("figures")
    text = told(kept(map_runs.write(runs, tmp_path / "runs")), out)
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
    text = told(kept(map_runs.write(runs, tmp_path / "runs")))
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
    clear = told(kept(map_runs.write(runs, tmp_path / "clear" / "runs")))
    assert "; 0 of the 3 others lie within two standard errors of it." in clear.splitlines()[2]
    # Two seeds 0.75 points apart: a mean's standard error is 0.375, a difference's 0.53.
    out = Output("figures")
    noisy = told(kept(map_runs.write(runs, tmp_path / "noisy" / "runs", noise=0.0075)), out)
    assert "; 2 of the 3 others lie within two standard errors of it." in noisy.splitlines()[2]
    assert out.answers == [
        "most like SGD `alpha=1, damping=0.1`, most like Muon `alpha=1, damping=0.01`",
        "untuned, the best mean is that of `alpha=2, damping=0.01`, with 2 of the 3 others near it",
    ]
    alike = Output("figures")
    told(kept(map_runs.write(runs, tmp_path / "alike" / "runs", noise=0.05)), alike)
    assert alike.answers[1] == "untuned, no setting stands out of 4"


def test_a_setting_that_lacks_rates_says_so(runs: Any, tmp_path: Path) -> None:
    root = tmp_path / "runs"
    for damping, rate in ((0.1, 0.02), (0.1, 0.08), (0.5, 0.02)):
        one = map_runs.config(runs, {"damping": damping, "lr": rate}, 0, "study_m")
        study_runs.write(runs, root, one, 0.9)
    failed = map_runs.config(runs, {"damping": 0.5, "lr": 0.08}, 0, "study_m")
    study_runs.write(runs, root, failed, None, state="failed")
    text = told(kept(root))
    assert "(lr 0.02 ↓, 1/1) | **90.00** (lr 0.02 of 1 tried, 1/1) |" in text
    assert '"of 1 tried": the others have no run yet' in text


def test_without_spectra_the_map_stands_alone(runs: Any, tmp_path: Path) -> None:
    root = tmp_path / "runs"
    for damping in (0.1, 0.5):
        one = map_runs.config(runs, {"damping": damping}, 0, "study_m")
        study_runs.write(runs, root, one, 0.9, state="diverged" if damping == 0.5 else "done")
    out = Output("figures")
    text = told(kept(root), out)
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
    text = told(measured_runs(runs, tmp_path / "runs", settings), out)
    (figure,) = out.figures.values()
    labels = [line.get_label() for line in figure.axes[0].lines]
    assert labels == ["trainer.epochs=4", "trainer.epochs=8"]
    assert "the best is that of `damping=0.01 trainer.epochs=8` (slope" in text


def test_an_axis_may_have_a_value_that_is_missing(runs: Any, tmp_path: Path) -> None:
    settings = [{"damping": d, "clip": c} for d in (0.1, 0.01) for c in (2.0, None, 10.0)]
    out = Output("figures")
    text = told(measured_runs(runs, tmp_path / "runs", settings), out)
    assert "| damping | clip=null | clip=2 | clip=10 |" in text
    (figure,) = out.figures.values()
    for rings in figure.axes[0].collections:  # the larger, the later along the last axis
        sizes = rings.get_sizes()
        assert len(sizes) == 3 and (np.diff(sizes) > 0).all()
