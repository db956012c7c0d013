"""The command on a real run: what it writes, prints, repeats, and refuses."""

import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from trained_run import train

from analysis.curvature import main
from analysis.run import measured
from bench.errors import UserError
from optimizers.exponents import read_exponents


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    words = ["model=mlp", "model.hidden=[12]", "trainer.epochs=2"]
    return train(tmp_path_factory.mktemp("work"), *words)


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    return shutil.copytree(trained, tmp_path / trained.name)


def test_command_writes_prints_and_does_not_repeat(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    main([f"run={run}", "directions=12", "batch=200"])
    out = capsys.readouterr().out
    assert "on 200 training samples: 12 directions a layer, float32, eval mode" in out
    assert "alpha +- se" in out
    assert "!: unreliable" in " ".join(out.split())
    assert f"wrote {run}/exponents.parquet (2 rows)" in out
    curvature, metadata = measured.read_table(run / "curvature.parquet") or pytest.fail()
    exponents, _ = measured.read_table(run / "exponents.parquet") or pytest.fail()
    assert curvature.groupby("layer").size().to_dict() == {"hidden.0": 12, "head": 10}
    options = {
        "directions": 12,
        "batch": 200,
        "engine": "auto",
        "microbatch": "auto",
        "dtype": "float32",
        "mode": "eval",
        "device": "cpu",
    }
    assert metadata == {"format": 2, "steps": {str(curvature["step"][0]): options}}
    for name, row in zip(("hidden.0", "head"), exponents.to_dict("records"), strict=True):
        assert any(
            line.split()[:4] == [name, row["layer_type"], f"{row['rows']}x{row['cols']}",
                                 f"{row['alpha']:.2f}"]
            for line in out.splitlines()
        )  # fmt: skip
    assert exponents["epoch"].tolist() == [2.0, 2.0]
    read_back = read_exponents(run / "exponents.parquet")
    assert read_back["head"].alpha == exponents["alpha"][1]

    times = {path: path.stat().st_mtime_ns for path in run.iterdir()}
    main([f"run={run.parent}/digits-*", "directions=12", "batch=200"])
    again = capsys.readouterr().out
    assert "already measured with these options; force=true measures again" in again
    assert next(line for line in out.splitlines() if "head " in line) in again
    assert {path: path.stat().st_mtime_ns for path in run.iterdir()} == times


@pytest.mark.parametrize("change", ["directions=3", "batch=100", "dtype=float64", "force=true"])
def test_another_measurement_is_made_when_asked(
    run: Path, capsys: pytest.CaptureFixture[str], change: str
) -> None:
    main([f"run={run}", "directions=2", "batch=50"])
    options = {"directions": "directions=2", "batch": "batch=50"}
    options[change.partition("=")[0]] = change
    main([f"run={run}", *options.values()])
    assert "already measured" not in capsys.readouterr().out


def test_half_a_result_is_measured_again(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [f"run={run}", "directions=2", "batch=50"]
    main(arguments)
    (run / "curvature.parquet").unlink()
    main(arguments)
    assert "already measured" not in capsys.readouterr().out
    assert pq.read_table(run / "curvature.parquet").num_rows == 4


def test_measured_numbers_do_not_depend_on_the_microbatch(run: Path) -> None:
    tables = []
    for microbatch in (7, 200):
        main([f"run={run}", "batch=60", "dtype=float64", f"microbatch={microbatch}"])
        tables.append(pd.read_parquet(run / "curvature.parquet"))
    real = tables[0]["sigma"] > 0
    pd.testing.assert_frame_equal(tables[0][real], tables[1][real], rtol=1e-8, atol=1e-13)


def refused(*arguments: str) -> str:
    with pytest.raises(UserError) as caught:
        main(list(arguments))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_mistakes_are_one_line(run: Path) -> None:
    assert "no such folder" in refused("run=runs/absent")
    assert "device=tpu: expected cpu, cuda or cuda:<number>" in refused(f"run={run}", "device=tpu")
    assert "not on this machine" in refused(f"run={run}", "device=cuda:99")
    assert "expected integer >= 1" in refused(f"run={run}", "directions=0")
    (run / "curvature.parquet").mkdir()
    assert "cannot write the tables" in refused(f"run={run}", "directions=1", "batch=10")
    for name in ("checkpoint.pt", "checkpoint.prev.pt"):
        (run / name).unlink(missing_ok=True)  # a short run has one checkpoint
    assert "no readable checkpoint" in refused(f"run={run}")
    (run / "status.json").write_text('{"state": "diverged", "cause": "loss is nan"}')
    assert "the run diverged: loss is nan" in refused(f"run={run}")


def test_a_network_that_is_not_finite_is_refused(run: Path) -> None:
    checkpoint = torch.load(run / "checkpoint.pt", weights_only=True)
    checkpoint["model"]["head.weight"].fill_(float("nan"))
    torch.save(checkpoint, run / "checkpoint.pt")
    assert "layer 'hidden.0': the gradient is not finite" in refused(f"run={run}", "batch=10")


def test_help_names_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["--help"])
    assert left.value.code == 0
    page = capsys.readouterr().out
    assert page.startswith("usage: spectral-bench curvature run=... [option=value ...]")
    assert "directions=<integer >= 1>   [default: 20]" in page
    for option in ("batch", "microbatch", "dtype", "mode", "device", "force"):
        assert f"  {option}=<" in page


@pytest.mark.slow
def test_the_module_is_a_command(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "analysis.curvature", "run=absent"]
    wrong = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert wrong.returncode == 2
    assert wrong.stderr == "error: run=absent: no such folder\n"


def test_other_epochs_of_the_run_stay(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main([f"run={run}", "directions=2", "batch=50"])
    for name in ("curvature", "exponents"):
        frame, metadata = measured.read_table(run / f"{name}.parquet") or pytest.fail()
        (last,) = metadata["steps"]
        earlier = {"format": 2, "steps": {"0": metadata["steps"][last]}}
        measured.write_table(frame.assign(step=0, epoch=0.0), run / f"{name}.parquet", earlier)
    main([f"run={run}", "directions=2", "batch=50"])
    assert "already measured" not in capsys.readouterr().out
    table = pd.read_parquet(run / "exponents.parquet")
    assert table["step"].tolist() == [0, 0, int(last), int(last)]
    assert read_exponents(run / "exponents.parquet")["head"].alpha == table["alpha"][3]
    main([f"run={run}", "directions=2", "batch=50"])
    assert "already measured" in capsys.readouterr().out


def test_kronecker_side(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [f"run={run}", "directions=8", "batch=100", "dtype=float64", "kronecker=true"]
    main(arguments)
    out = capsys.readouterr().out
    assert f"wrote {run}/kronecker.parquet (32 rows)" in out  # 2 layers, 8 directions, 2 errors
    assert "label errors: C_A has the gradient's rank model in " in out
    rows = pd.read_parquet(run / "kronecker.parquet")
    layers = pd.read_parquet(run / "kronecker_layers.parquet")
    assert layers[["layer", "errors"]].values.tolist() == [
        ["hidden.0", "class"], ["head", "class"], ["hidden.0", "label"], ["head", "label"]
    ]  # fmt: skip
    curvature = pd.read_parquet(run / "curvature.parquet")
    assert set(curvature["engine"]) <= {"sweep", "tangent"}  # a network of ReLUs
    exact = rows[(rows["errors"] == "class") & (rows["sigma"] > 0)]
    assert (exact["sud"] * exact["iad"]).tolist() == pytest.approx(exact["chi"].tolist(), rel=1e-6)
    main(arguments)
    again = capsys.readouterr().out
    assert "wrote" not in again
    assert next(line for line in out.splitlines() if "label" in line) in again
