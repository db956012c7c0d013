"""The command on a real run: what it writes, prints, repeats, and refuses."""

import shutil
from pathlib import Path

import pandas as pd
import pytest
import torch
from trained_run import train

from analysis.curvature_core.blocks import exact_norms
from analysis.curvature_core.objective import Settings, cross_entropy
from analysis.curvature_core.products import HessianProducts, by_parameter, by_role, dense_hessian
from analysis.hessian_blocks import main
from analysis.run import measured
from bench.errors import UserError
from bench.parts import restore


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    words = ["model=vit_micro", "model.dim=2", "model.mlp_ratio=1", "trainer.epochs=1"]
    return train(tmp_path_factory.mktemp("work"), *words, "trainer.accounting=false")


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    return shutil.copytree(trained, tmp_path / trained.name)


@pytest.mark.slow
def test_exact_blocks_of_trained_and_initial_weights(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main([f"run={run}", "batch=40", "dtype=float64"])
    out = capsys.readouterr().out
    assert "on 40 training samples: 116 parameters, the whole Hessian, float64, eval mode" in out
    assert "asymmetry of what was computed: " in out and "per entry: " in out
    restored = restore(run)
    batch = restored.batch(40)
    products = HessianProducts(restored.model, cross_entropy, batch, Settings(torch.float64))
    groups = by_role(by_parameter(restored.model))
    expected = exact_norms(dense_hessian(products), groups, "role")
    table, metadata = measured.read_table(run / "hessian_blocks.parquet") or pytest.fail()
    roles = table[table["level"] == "role"].reset_index(drop=True)
    pd.testing.assert_frame_equal(
        roles.drop(columns=["step", "epoch"]), expected, check_exact=False, rtol=1e-12
    )
    assert set(table["step"]) == {restored.step} and set(table["epoch"]) == {1.0}
    assert metadata["steps"][str(restored.step)] == {
        "batch": 40, "microbatch": "auto", "dtype": "float64", "mode": "eval", "device": "cpu",
        "method": "exact",
    }  # fmt: skip

    (run / "checkpoint.pt").unlink()  # the initial weights are the seed's
    (run / "checkpoint.prev.pt").unlink(missing_ok=True)
    main([f"run={run}", "batch=40", "dtype=float64", "at=start"])
    both = pd.read_parquet(run / "hessian_blocks.parquet")
    assert sorted(set(both["step"])) == [0, restored.step]
    norms = both[both["level"] == "role"].pivot_table("frobenius", ["row", "col"], "step")
    assert abs(norms[0] / norms[restored.step] - 1).median() > 0.01
    capsys.readouterr()
    main([f"run={run}", "batch=40", "dtype=float64", "at=start"])
    assert "already measured with these options" in capsys.readouterr().out


@pytest.mark.slow
def test_estimated_blocks(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [f"run={run}", "batch=40", "method=estimated", "dtype=float64", "spectral=all"]
    main([*arguments, "probes=8", "steps=12", "level=both"])
    out = capsys.readouterr().out
    assert "116 parameters, 8 probes, 12 steps, float64" in out and " +- " in out
    table = pd.read_parquet(run / "hessian_blocks.parquet")
    assert set(table["level"]) == {"role", "parameter"} and set(table["method"]) == {"estimated"}
    main([f"run={run}", "batch=40", "dtype=float64"])  # another way of the same step: replaced
    exact = pd.read_parquet(run / "hessian_blocks.parquet")
    names = ["level", "row", "col"]
    both = table.merge(exact, on=names, suffixes=("", "_exact"))
    assert len(both) == len(exact) and set(exact["method"]) == {"exact"}
    assert (both["spectral"] <= both["spectral_exact"] * (1 + 1e-9) + 1e-14).all()
    ratio = both["frobenius"] / both["frobenius_exact"]
    assert ratio[both["frobenius_exact"] > 1e-12].between(0.3, 3).mean() > 0.95


def test_mistakes_are_one_line(run: Path) -> None:
    for arguments, told in [
        (["run=absent"], "run=absent: no such folder"),
        (["method=guess"], "expected auto | exact | estimated"),
        (["probes=1"], "expected integer >= 2"),
        (["at=end"], "expected trained | start"),
    ]:
        with pytest.raises(UserError, match=told.replace("|", r"\|")) as caught:
            main([f"run={run}", *arguments] if "run=" not in arguments[0] else arguments)
        assert "\n" not in str(caught.value)


def test_a_hessian_that_does_not_fit_is_refused(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("analysis.hessian_blocks.LARGEST", 100)
    with pytest.raises(UserError, match="of 116 parameters takes 0 GiB; up to 100 are formed"):
        main([f"run={run}", "method=exact"])
