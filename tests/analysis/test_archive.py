"""``spectral-bench archive`` on runs that were really trained."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from analysis import archive
from bench import sweep
from bench.errors import UserError

ROOT = Path(archive.__file__).parents[1]
QUICK = [
    "model=mlp", "model.hidden=[8]", "dataset=digits", "tracker=none", "trainer.epochs=1",
    "trainer.batch_size=400", "trainer.progress=none", "trainer.device=cpu", "trainer.threads=1",
    "trainer.accounting=false", "optimizer=sgd,adamw",
]  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with runs of two sweeps: of seeds 0 and 1, and of a tuning seed."""
    root = tmp_path_factory.mktemp("work")
    for name, seeds in (("tiny", "0,1"), ("tiny_tune", "1000")):
        subprocess.run(
            [sys.executable, "-m", "bench.train", "-m", *QUICK, f"sweep={name}", f"seed={seeds}"],
            cwd=root, check=True, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True,
        )  # fmt: skip
    return root / "runs"


@pytest.mark.slow
def test_a_sweep_goes_on_from_an_archive(
    trained: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    kept = tmp_path / "results" / "tiny.parquet"
    archive.main([f"source={trained}", "sweeps=tiny,tiny_tune", f"out={kept}"])
    assert f"{kept}: 6 runs (6 done); 6 new, 0 replaced; 0.0" in capsys.readouterr().out
    monkeypatch.chdir(tmp_path)
    archive.main(["unpack", "results/tiny.parquet", "into=runs"])
    assert capsys.readouterr().out == "runs: 6 of 6 runs (6 done) unpacked\n"
    sweep.main(["plan", *QUICK, "sweep=tiny", "seed=0,1,2"])
    assert "\n6 planned: 4 done, 2 missing\n" in capsys.readouterr().out
    archive.main(["source=runs", "out=again.parquet"])
    assert Path("again.parquet").read_bytes() == kept.read_bytes()
    for folder in trained.glob("*-s?-*"):
        names = {p.name for p in folder.glob("*.json*")}
        assert names == {p.name for p in (tmp_path / "runs" / folder.name).iterdir()}
        for name in names - {"status.json"}:
            assert (tmp_path / "runs" / folder.name / name).read_bytes() == (
                folder / name
            ).read_bytes()


def test_only_the_sweeps_asked_for_and_later_the_others(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "tiny.parquet"
    archive.main([f"source={trained}", "sweeps=tiny", f"out={out}"])
    assert ": 4 runs (4 done); 4 new" in capsys.readouterr().out
    before = out.read_bytes()
    archive.main([f"source={trained}", "sweeps=tiny", f"out={out}"])
    assert ": 4 runs (4 done); 0 new" in capsys.readouterr().out
    assert out.read_bytes() == before
    archive.main([f"source={trained}", "sweeps=tiny_tune,tiny_late", f"out={out}"])
    told = capsys.readouterr()
    assert told.err.startswith("warning: sweeps=tiny_late: no run of it in ")
    assert ": 6 runs (6 done); 2 new" in told.out
    archive.main([f"source={out}", "sweeps=tiny", f"out={tmp_path / 'part.parquet'}"])
    assert (tmp_path / "part.parquet").read_bytes() == before


def changed(trained: Path, folder: Path, edit: Callable[[dict[str, Any]], object]) -> Path:
    """Return a copy of the runs in which one summary is edited."""
    shutil.copytree(trained, folder)
    path = min(folder.glob("*-adamw-s0-*")) / "summary.json"
    summary = json.loads(path.read_text())
    edit(summary)
    path.write_text(json.dumps(summary))
    return folder


def test_another_result_is_refused_unless_it_is_to_replace(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "tiny.parquet"
    archive.main([f"source={trained}", f"out={out}"])
    before = out.read_bytes()
    other = changed(trained, tmp_path / "runs", lambda s: s.update({"test/accuracy": 0.5}))
    with pytest.raises(UserError, match=r"another result of digits-mlp-adamw-s0-\S+: summary.json"):
        archive.main([f"source={other}", f"out={out}"])
    assert out.read_bytes() == before
    capsys.readouterr()
    archive.main([f"source={other}", f"out={out}", "replace=true"])
    assert "0 new, 1 replaced" in capsys.readouterr().out
    assert out.read_bytes() != before


def test_run_folders_that_are_there_stay(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, into = tmp_path / "tiny.parquet", tmp_path / "runs"
    archive.main([f"source={trained}", f"out={out}"])
    changed(trained, into, lambda s: s.update({"test/accuracy": 0.5}))
    shutil.rmtree(min(into.glob("*-sgd-s1-*")))
    unfinished = min(into.glob("*-sgd-s0-*"))
    (unfinished / "status.json").write_text('{"state": "running"}')
    texts = {path: path.read_bytes() for path in into.rglob("*") if path.is_file()}
    capsys.readouterr()
    archive.main(["unpack", str(out), f"into={into}"])
    told, warned = capsys.readouterr()
    assert "1 of 6 runs (6 done) unpacked; 5 were there already and stay as they are" in told
    assert warned.startswith(f"warning: {unfinished}: unfinished here, finished in the archive")
    assert len(warned.splitlines()) == 1
    assert all(path.read_bytes() == text for path, text in texts.items())
    assert len(list(into.glob("*-sgd-s1-*/summary.json"))) == 1


def test_mistakes_are_one_line(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("x")
    for argv, message in [
        (["pack"], "pack: options are written key=value"),
        (["source=x", f"out={tmp_path}/a"], "source=x: no such folder of runs"),
        ([f"source={tmp_path}/empty", f"out={tmp_path}/a"], "no runs there"),
        ([f"source={trained}"], "option 'out' is required"),
        ([f"source={trained}", "sweeps=tny", f"out={tmp_path}/a"], "did you mean tiny"),
        ([f"source={trained}", f"out={tmp_path}/file"], "no archive of runs"),
        ([f"source={trained}", f"out={tmp_path}/file/a.parquet"], "name another file"),
        (["unpack"], "option 'source' is required"),
        (["unpack", str(tmp_path / "none.parquet")], "none.parquet: no archive of runs there"),
    ]:
        with pytest.raises(UserError) as caught:
            archive.main(argv)
        assert message in str(caught.value), argv
        assert "\n" not in str(caught.value)
    archive.main([f"source={trained}", f"out={tmp_path}/a.parquet"])
    with pytest.raises(UserError, match="name another folder"):
        archive.main(["unpack", f"{tmp_path}/a.parquet", f"into={tmp_path}/file"])
