from __future__ import annotations

from pathlib import Path

import pytest
from measured_tables import directions, write_run

from analysis.exponents_page import main
from analysis.run.measured import load
from bench.errors import UserError

LAYERS = {"conv1": 2.0, "conv2": 1.5, "fc": 1.0}


def _runs(root: Path) -> Path:
    for seed in range(2):
        tables = [directions(LAYERS, epoch=epoch, seed=seed) for epoch in (0.0, 5.0)]
        write_run(root, f"r{seed}", tables, seed=seed)
    (root / "r0" / "checkpoint.pt").write_bytes(b"weights")
    return root


def _files(docs: Path) -> dict[str, bytes]:
    return {str(path.relative_to(docs)): path.read_bytes()
            for path in sorted(docs.rglob("*")) if path.is_file()}  # fmt: skip


@pytest.mark.slow
def test_the_page_is_made_from_runs_and_again_from_its_archive_alone(tmp_path: Path) -> None:
    runs, docs = _runs(tmp_path / "runs"), tmp_path / "docs"
    main(["name=exponents_x", f"source={runs}", f"docs={docs}"])
    first = _files(docs)
    assert set(first) == {
        "exponents_x.md", "figures/exponents_x.png", "measurements/exponents_x.parquet"
    }  # fmt: skip
    assert len(first["measurements/exponents_x.parquet"]) < 100_000
    for name in ("exponents_x.md", "figures/exponents_x.png"):
        (docs / name).unlink()
    main(["name=exponents_x", f"docs={docs}"])
    assert _files(docs) == first
    copied = f"source={docs / 'measurements' / 'exponents_x.parquet'}"
    main(["name=exponents_x", copied, f"docs={tmp_path / 'elsewhere'}"])
    assert _files(tmp_path / "elsewhere") == first


def test_the_tables_show_what_was_measured(tmp_path: Path) -> None:
    runs, docs = _runs(tmp_path / "runs"), tmp_path / "docs"
    main(["name=exponents_x", f"source={runs}", f"docs={docs}"])
    text = (docs / "exponents_x.md").read_text()
    layers = load([str(runs)]).layers
    assert text.startswith("# Exponents over training: resnet18 on cifar10\n")
    assert "on 2 runs: `r0`, `r1`" in text and "(figures/exponents_x.png)" in text
    for epoch, rows in layers.groupby("epoch"):
        line = next(line for line in text.splitlines() if line.startswith(f"| {epoch:g} |"))
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        assert cells[1] == f"{rows['alpha'].median():.2f}"
        assert cells[6] == f"{100 * rows['null_noise_error'].median():.1f} %"
        assert cells[7] == f"{rows['reliable'].sum()}/6"
    assert "## At the last epoch: `r0`" in text
    last = layers[(layers["run"] == "r0") & (layers["epoch"] == 5) & (layers["layer"] == "fc")]
    assert f"| fc | 32x64 | {last['alpha'].iloc[0]:.2f} \u00b1 " in text
    assert "`alpha-classifier`" in text and "| not measured |" not in text


def test_mistakes_are_one_line(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    write_run(empty, "r", [])
    for arguments, told in [
        (["name=x"], "no such archive; give source="),
        (["name=x", f"source={tmp_path / 'none'}"], "none"),
        (["name=x", f"source={empty}"], "no exponents were measured in these runs"),
    ]:
        with pytest.raises(UserError, match=told) as caught:
            main([*arguments, f"docs={tmp_path / 'docs'}"])
        assert "\n" not in str(caught.value)
