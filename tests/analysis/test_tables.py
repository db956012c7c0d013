"""``spectral-bench tables`` as a user meets it.

The comparison on W&B, written by the real client offline and read back from its log.
"""

from __future__ import annotations

import csv
import io
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from wandb_server import without_wandb

from analysis import report, tables
from analysis.page.wandb_table import _COLUMNS
from analysis.run.wandb_files import find_files, read_file
from analysis.runs import load_runs
from bench.errors import UserError
from bench.tuning.spec import looks_of


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
    for form in ("text", "markdown", "latex", "html", "csv"):
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


def test_a_choice_of_states_is_said_below_the_table(
    source: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out, _ = output(capsys, f"source={source}", "states=done,diverged")
    assert "92.05 ± 0.07 (2/3)" in out
    assert "7 of 8 runs used. Never averaged in: 1 diverged." in out
    assert out.splitlines()[-1] == "Only runs in these states were read: done, diverged."


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
        ([f"source={tmp_path}"], f"{tmp_path}: no runs there; make some with `spectral-bench"),
        ([f"source={tmp_path}/no"], "no such folder of runs; make runs with `spectral-bench"),
        ([f"source=offline:{tmp_path}"], f"offline:{tmp_path}: no runs there"),
        ([f"source={source}", "metric=test/acuracy"], "the nearest is 'test/accuracy'"),
        ([f"source={source}", "sweep=gird"], "no runs of sweep 'gird'; sweeps here: grid"),
        ([f"source={source}", "states=failed"], f"{source}: no runs with states=failed there"),
        ([f"source={source}", "states=dne"], "unknown state 'dne'; the nearest is 'done'"),
        ([f"source={source}", "format=latx"], "did you mean 'latex'"),
        ([f"source={source}", "baseline=adam"], "no row 'adam' to be the baseline; the nearest is"),
        ([f"source={source}", "resolve=0.01"], "add baseline=<row>"),
        ([f"source={source}", "metric=best/epoch", "baseline=sgd"], "better=higher or better=low"),
        ([f"source={source}", f"check={tmp_path}/no.md"], "no.md: No such file"),
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


def test_verdicts_and_runs_behind_each_cell(
    source: str, capsys: pytest.CaptureFixture[str]
) -> None:
    options = (f"source={source}", "baseline=sgd", "spread=interval", "ids=true", "resolve=0.01")
    out, _ = output(capsys, *options)
    header, _, adamw, muon, sgd = out.splitlines()[:5]
    assert header.split() == [
        "optimizer", "digits/convnet", "s/epoch", "vs", "sgd,", "found", "afterwards",
        "seeds", "for", "1.00",
    ]  # fmt: skip
    assert "91.10 [90.85, 91.35] (3/3)" in adamw
    # All differences are 0.01, of seeds too few to say so.
    assert "+1.00 [+1.00, +1.00] undecided" in adamw
    assert "with 2 seeds no p is below 0.5; 6 seeds can." in out
    assert "+2.00 (1 pair)" in muon
    assert sgd.split()[-2:] == ["–", "–"]
    assert "by step-down max-T sign flips over 1 comparison of this section, at 0.05." in out
    assert "\nadamw, digits/convnet: digits-convnet-adamw-s0-" in out


def test_interim_analyses_are_those_of_the_sweeps_file(
    runs: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("sgd", "adamw"):
        for seed in (0, 1, 2):
            config = runs.config(name, seed, sweep="study_a_8")
            runs.folder(tmp_path, config, runs.summary(0.9 + 0.01 * seed * len(name)))
    words = (f"source={tmp_path}", "baseline=sgd")
    declared = looks_of("study_a_8")
    assert f"times {declared} interim analyses (" in output(capsys, *words, "sweep=study_a_8")[0]
    assert "times 9 interim analyses (" in output(capsys, *words, "sweep=study_a_8", "looks=9")[0]
    assert f"times {declared} interim" in output(capsys, *words)[0]  # all are of that sweep
    assert "interim" not in output(capsys, *words, "looks=1")[0]
    page = report.page(
        load_runs(tmp_path),
        report.ReportOptions(source=str(tmp_path), baseline=["sgd"], sweep="study_a_8"),
    )
    assert f"times {declared} interim analyses (" in page


def test_check_fails_when_the_data_have_changed(
    runs: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed in (0, 1, 2):
        runs.folder(tmp_path / "runs", runs.config(seed=seed), runs.summary(0.9))
    options = [f"source={tmp_path / 'runs'}", "format=markdown"]
    tables.main([*options, f"out={tmp_path / 'table.md'}"])
    check = [*options, f"check={tmp_path / 'table.md'}"]
    assert tables.main(check) == 0
    assert "up to date" in capsys.readouterr().out
    shutil.rmtree(tmp_path / "runs" / runs.config(seed=1)["id"])
    assert tables.main(check) == 1
    err = capsys.readouterr().err
    assert "no longer matches the data; line 3 differs" in err
    assert "file: | adamw | 90.00 ± 0.00 (3/3)" in err
    assert "data: | adamw | 90.00 ± 0.00 (2/2)" in err


def test_a_dropped_run_makes_its_cell_partial(
    runs: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("adamw", "sgd"):
        for seed in range(5):
            runs.folder(tmp_path, runs.config(name, seed), runs.summary(0.9 + seed / 100))
    assert output(capsys, f"source={tmp_path}")[0].count("(5/5)") == 2
    shutil.rmtree(tmp_path / runs.config("adamw", 4)["id"])
    out, _ = output(capsys, f"source={tmp_path}")
    (adamw,) = [line for line in out.splitlines() if line.startswith("adamw")]
    assert "(4/5)" in adamw
    assert "*" not in adamw  # fewer seeds never win against all of them


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    without_wandb(monkeypatch)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_comparison_is_a_table_and_an_artifact(
    offline: Path, runs: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("adamw", "muon"):
        for seed in range(3):
            accuracy = 0.9 + 0.01 * (name == "muon") + (seed + (name == "muon")) / 1000
            runs.folder(offline / "runs", runs.config(name, seed, sweep="grid"),
                        runs.summary(accuracy))  # fmt: skip
    arguments = ["source=runs", "sweep=grid", "baseline=adamw", "publish=lab/p"]
    tables.main(arguments)
    assert "published to lab/p" in capsys.readouterr().err
    (log,) = find_files(offline / "wandb")
    told = runs.written(log) and read_file(log)
    assert (told.project, told.job_type) == ("p", "report")
    assert told.config["metric"] == "test/accuracy"
    (stored,) = log.parent.rglob("media/table/*.json")
    content = json.loads(stored.read_text())
    assert content["columns"] == list(_COLUMNS)
    by_row = {row[0]: dict(zip(_COLUMNS, row, strict=True)) for row in content["data"]}
    assert by_row["muon"]["n"] == 3
    assert by_row["muon"]["difference"] == pytest.approx(0.011)
    assert len(by_row["adamw"]["run_ids"].split()) == 3
    assert by_row["adamw"]["verdict"] is None
    assert b"comparison-grid" in log.read_bytes()
    assert b"comparison.tex" in log.read_bytes()
    assert load_runs(f"offline:{offline / 'wandb'}").empty  # a report is no run


def test_a_project_is_named_with_its_entity(offline: Path, runs: Any) -> None:
    runs.folder(offline / "runs", runs.config(), runs.summary(0.9))
    with pytest.raises(UserError, match="publish=p: write <entity>/<project>"):
        tables.main(["source=runs", "publish=p"])


@pytest.fixture
def curves(runs: Any, tmp_path: Path) -> str:
    """Four evaluations of each run, 10 steps apart; muon learns twice as fast as adamw."""
    for name, rate in (("adamw", 0.1), ("muon", 0.2)):
        for seed in (0, 1, 2):
            history = [
                {"step": 10 * e, "epoch": float(e), "val/accuracy": rate * e + 0.01 * seed}
                for e in (1, 2, 3, 4)
            ]
            summary = runs.summary(0.5, steps=40, **{
                "clock/data_seconds": 0.0, "clock/step_seconds": 4.0, "target/reached": False,
            })  # fmt: skip
            runs.folder(tmp_path / "runs", runs.config(name, seed), summary, history=history)
    return str(tmp_path / "runs")


def test_the_default_target_is_the_baselines_own(
    curves: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = (f"source={curves}", "metric=target/step", "baseline=adamw", "format=csv")
    out, _ = output(capsys, *words, "target=auto")
    lines = {line["row"]: line for line in csv.DictReader(io.StringIO(out))}
    # 0.41 is the middle final value: adamw's first seed misses it, its last is there before.
    assert {name: (line["n"], line["reached"]) for name, line in lines.items()} == {
        "adamw": ("3", "2"), "muon": ("3", "3"),
    }  # fmt: skip
    assert float(lines["adamw"]["mean"]) == 40.0
    assert float(lines["muon"]["mean"]) == pytest.approx(20.0)  # 0.4 + 0.01 of the second seed
    assert lines["adamw"]["baseline"] == ""
    out, _ = output(capsys, *words[:2], "target={metric: val/accuracy, value: 0.3}")
    assert "Target of digits/convnet: val/accuracy 0.3, interpolated between" in out
    seconds, _ = output(
        capsys, words[0], "metric=target/seconds", "target={metric: val/accuracy, value: 0.35}",
        "format=csv",
    )  # fmt: skip
    lines = {line["row"]: line for line in csv.DictReader(io.StringIO(seconds))}
    assert float(lines["adamw"]["mean"]) == pytest.approx(3.4)  # 34 of 40 steps of 4 s


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("target=0.9",), r'target=0.9: write auto, or for example "{metric: val/accuracy, value'),
        (("target={metric: val/accuracy",), "write auto, or for example"),
        (("target=auto",), "target=auto is the final value of a row: add baseline=<row>"),
        (("target=auto", "baseline=adam"), "the nearest is 'adamw'"),
        (("metric=test/accuracy", "target=auto"), "target= goes with metric=target/seconds"),
        (("target=auto", "baseline=muon", "resolve=1"), "no verdicts"),
    ],
)
def test_a_target_that_cannot_be(curves: str, words: tuple[str, ...], message: str) -> None:
    asked = dict(word.split("=", 1) for word in ("metric=target/step", *words))
    with pytest.raises(UserError) as caught:
        tables.main([f"source={curves}", *(f"{key}={value}" for key, value in asked.items())])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
