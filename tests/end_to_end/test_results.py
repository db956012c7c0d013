"""From training to docs/RESULTS.md, and a study that goes on from an archive elsewhere."""

from __future__ import annotations

from pathlib import Path

import pytest

from analysis.runs import load_runs

pytestmark = pytest.mark.slow

QUICK = [
    "model=mlp", "model.hidden=[8]", "dataset=digits", "tracker=none", "trainer.epochs=2",
    "trainer.batch_size=256", "trainer.progress=none", "trainer.device=cpu", "trainer.threads=1",
    "optimizer=adamw,muon,spectral_newton",
]  # fmt: skip


def done(command, module: str, *options: str, folder: tuple[str, ...] = ()) -> str:
    process = command(module, *options, folder=folder)
    process.folder.mkdir(exist_ok=True)
    finished = process.run()
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


def test_a_study_in_two_pieces_on_two_machines(command, tmp_path: Path) -> None:
    (tmp_path / "sweeps").mkdir()
    (tmp_path / "sweeps" / "study_q.yaml").write_text('study: {question: "Which is best?"}\n')
    tuning = [*QUICK, "sweep=study_q_tune", "seed=1000", "optimizer.lr=0.01,0.02"]
    done(command, "bench.train", "-m", *tuning)
    done(command, "bench.train", "-m", *QUICK, "optimizer.lr=0.02", "sweep=study_q", "seed=0,1")
    done(command, "analysis.archive", "out=study_q.parquet")

    there = ("there",)
    done(command, "analysis.archive", "unpack", "../study_q.parquet", "into=runs", folder=there)
    rest = [*QUICK, "optimizer.lr=0.02", "sweep=study_q", "seed=0,1,2"]
    told = done(command, "bench.train", "-m", *rest, folder=there)
    assert "9 planned: 6 done, 3 missing" in told
    done(command, "analysis.archive", "out=../more.parquet", folder=there)
    out = "out=results/study_q.parquet"
    told = done(command, "analysis.archive", "source=study_q.parquet,more.parquet", out)
    assert "15 runs (15 done); 15 new, 0 replaced" in told
    assert len(load_runs(tmp_path / "results")) == 15

    done(command, "analysis.results", "sweeps=sweeps")
    told = done(command, "analysis.results", "sweeps=sweeps", "--check")
    assert "7 files match the archives" in told
    page = (tmp_path / "docs" / "RESULTS.md").read_text()
    assert "Tuning budgets are equal: 2 trials (2 runs, 4 epochs) each" in page
    assert "(3/3)" in page
    assert "`spectral_newton` ends at test/accuracy" in page
    curves = next((tmp_path / "docs" / "figures").glob("study_q-*-epoch.svg")).read_text()
    assert curves.count("fill-opacity") == 3  # a band each
    assert "spectral_newton: differences" in (tmp_path / "docs/figures/front.svg").read_text()
