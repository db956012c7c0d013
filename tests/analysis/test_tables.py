"""``python -m analysis.tables`` as a user meets it."""

from __future__ import annotations

import csv
import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from analysis import tables
from bench.errors import UserError


@pytest.fixture(scope="module")
def source(runs: Any, tmp_path_factory: pytest.TempPathFactory) -> str:
    root: Path = tmp_path_factory.mktemp("work") / "runs"
    for index, name in enumerate(["sgd", "adamw", "muon"]):
        for seed in (0, 1, 2):
            config = runs.config(name, seed, sweep="grid" if name != "sgd" else None)
            state = {"muon2": "running", "sgd1": "diverged"}.get(f"{name}{seed}", "done")
            runs.folder(root, config, runs.summary(0.9 + 0.01 * index + 0.001 * seed, state), state)
    (root / "wandb").mkdir()
    return str(root)


def output(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[str, str]:
    tables.main(list(argv))
    captured = capsys.readouterr()
    return captured.out, captured.err


def test_the_command_prints_the_table(source: str, capsys: pytest.CaptureFixture[str]) -> None:
    out, err = output(capsys, f"source={source}")
    rows = {line.split()[0]: line for line in out.splitlines() if "±" in line}
    assert "91.10 ± 0.10 (3/3)" in rows["adamw"]
    assert "* " in rows["adamw"]
    assert "92.05 ± 0.07 (2/3)" in rows["muon"]
    assert "90.10 ± 0.14 (2/3, 1 diverged)" in rows["sgd"]
    assert "7 of 9 runs used. Never averaged in: 1 diverged, 1 running." in out
    assert source not in out
    assert err == f"source: {source} (9 runs)\n"


def test_built_twice_it_is_the_same_to_the_byte(
    source: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for form in ("text", "markdown", "csv"):
        options = (f"source={source}", f"format={form}")
        assert output(capsys, *options) == output(capsys, *options)


def test_options_reach_the_table(source: str, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["sweep=grid", "metric=best/epoch", "rows=optimizer,seed", "cols=dataset"]
    with pytest.raises(UserError, match="unknown column 'seed'"):
        output(capsys, f"source={source}", *options)
    options[2] = "rows=optimizer,schedule"
    out, _ = output(capsys, f"source={source}", *options, "seeds=0,1,5", "format=csv")
    lines = list(csv.DictReader(io.StringIO(out)))
    assert [line["row"] for line in lines] == ["adamw/cosine", "muon/cosine"]
    assert {line["column"] for line in lines} == {"digits"}
    assert [(line["n"], line["expected_n"], line["mean"]) for line in lines] == [
        ("2", "3", "7.0")
    ] * 2
    assert all(len(line["run_ids"].split(";")) == 2 for line in lines)


def test_the_table_goes_to_a_file(
    source: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "new" / "table.md"
    out, _ = output(capsys, f"source={source}", "format=markdown", f"out={target}")
    printed, _ = output(capsys, f"source={source}", "format=markdown")
    assert out == ""
    assert target.read_text(encoding="utf-8") == printed
    with pytest.raises(UserError, match=r"out=.*name another file"):
        output(capsys, f"source={source}", f"out={tmp_path}")


def test_damaged_runs_are_warned_of_on_stderr(
    runs: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs.folder(tmp_path, runs.config(seed=0), runs.summary(0.5))
    bad = runs.folder(tmp_path, runs.config(seed=1), runs.summary(0.9))
    (bad / "summary.json").write_text('{"test/accur')
    out, err = output(capsys, f"source={tmp_path}")
    assert "50.00 (1/2)" in out
    assert "1 unreadable" in out
    (warning, source) = err.splitlines()
    assert warning.startswith(f"warning: {bad / 'summary.json'}: not whole JSON")
    assert source.startswith("source: ")


def test_mistakes_are_one_line(source: str, tmp_path: Path) -> None:
    for argv, message in [
        ([f"source={tmp_path}"], f"{tmp_path}: no runs there; make some with `python -m bench"),
        ([f"source={tmp_path}/no"], "no such folder of runs; make runs with `python -m bench"),
        ([f"source=offline:{tmp_path}"], f"offline:{tmp_path}: no runs there"),
        ([f"source={source}", "metric=test/acuracy"], "the nearest is 'test/accuracy'"),
        ([f"source={source}", "sweep=gird"], "no runs of sweep 'gird'; sweeps here: grid"),
        ([f"source={source}", "format=latex"], "format=latex"),
        (["sorce=x"], "did you mean 'source='"),
    ]:
        with pytest.raises(UserError) as caught:
            tables.main(argv)
        assert message in str(caught.value)
        assert "\n" not in str(caught.value)


def test_as_a_process_piped_and_narrow(source: str) -> None:
    command = [sys.executable, "-m", "analysis.tables"]
    done = subprocess.run(
        [*command, f"source={source}"],
        capture_output=True,
        check=False,
        cwd=Path(tables.__file__).parents[1],
        env={"COLUMNS": "20", "PATH": "", "PYTHONIOENCODING": "utf-8"},
    )
    assert done.returncode == 0, done.stderr.decode()
    text = done.stdout.decode()
    assert "90.10 ± 0.14 (2/3, 1 diverged)" in text
    assert "\x1b" not in text
    wrong = subprocess.run(
        [*command, f"source={source}/nowhere"], capture_output=True, check=False, text=True
    )
    assert wrong.returncode == 2
    assert wrong.stdout == ""
    assert wrong.stderr.startswith("error: ")
    assert len(wrong.stderr.splitlines()) == 1
