"""`study register` and `study status`: sweep files of one's own, and real runs."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from bench import config, files, register, registration, study, train
from bench.errors import UserError
from bench.registration import badge, current_file_hash, find

from .conftest import QUICK

SWEEP = """
# @package _global_
defaults:
  - override /model: mlp
  - override /tracker: none
sweep: study_own
trainer: {epochs: 1, batch_size: 400, progress: none, device: cpu, threads: 1, accounting: false}
model: {hidden: [8]}
study:
  registered:
    outcome: test/accuracy
    primary: [[adamw, sgd]]
    margin: 0.01
    known: [Nothing.]
  tuning:
    trials: 2
    extension: 0
    seeds: [1000]
    space: {sgd: {optimizer.lr: {low: 0.1, high: 0.2}}, adamw: {optimizer.lr: {low: 0.1, high: 1}}}
hydra:
  mode: MULTIRUN
  sweeper: {params: {optimizer: "sgd,adamw", seed: "0,1"}}
"""


class Own:
    """A sweep file of a user's own, in a folder on Hydra's search path."""

    def __init__(self, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.file = root / "sweeps" / "study_own.yaml"
        self.file.parent.mkdir()
        self.file.write_text(SWEEP)
        self.words = ["+sweeps=study_own", f"hydra.searchpath=[file://{root}]"]
        self._capsys = capsys

    def __call__(self, command: str, *more: str) -> list[str]:
        self._capsys.readouterr()
        register.main([command, *self.words, *more])
        return self._capsys.readouterr().out.splitlines()

    def refused(self, command: str, *more: str) -> str:
        with pytest.raises(UserError) as caught:
            self(command, *more)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    def change(self, old: str, new: str) -> None:
        text = self.file.read_text()
        assert old in text
        self.file.write_text(text.replace(old, new))


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Own:
    monkeypatch.chdir(tmp_path)
    return Own(tmp_path, capsys)


def run(optimizer: str, seed: int, sweep: str = "study_own") -> Path:
    """Train a report run, really; return its folder."""
    made = config.load([*QUICK, f"sweep={sweep}", f"optimizer={optimizer}", f"seed={seed}"])
    train.train(made)
    (folder,) = Path("runs").glob(f"*-{optimizer}-s{seed}-*")
    return folder


def begin_at(folder: Path, time: datetime) -> str:
    """Make a run one that began at ``time``."""
    path = folder / "provenance.json"
    content = json.loads(path.read_text())
    content["attempts"][0]["started"] = time.isoformat(timespec="seconds")
    path.write_text(json.dumps(content))
    return str(content["attempts"][0]["started"])


def test_a_plan_is_frozen_printed_and_found_again(own: Own) -> None:
    before = datetime.now(UTC).replace(microsecond=0)
    lines = own("register")
    made = find("study_own")
    assert made is not None
    assert before <= datetime.fromisoformat(made.time) <= datetime.now(UTC)
    plan = made.plan
    assert (plan.outcome, plan.primary, plan.secondary) == (
        "test/accuracy",
        (("adamw", "sgd"),),
        (),
    )
    assert (plan.horizon, plan.seeds, plan.looks, plan.margin) == (1, (0, 1), 1, 0.01)
    assert (plan.optimizers, plan.models, plan.datasets) == (
        ("adamw", "sgd"),
        ("mlp",),
        ("digits",),
    )
    assert plan.tuning is not None
    assert plan.tuning["space"]["sgd"] == {
        "optimizer.lr": {"low": 0.1, "high": 0.2, "log": True, "extend": True}
    }
    assert plan.overrides == ()
    assert current_file_hash(made) == plan.file
    path = "sweeps/registered/study_own.json"
    assert Path(path).is_file()
    assert f"sha256       {made.hash}" in lines
    assert lines[-1].startswith(f"next: git add {path} and commit it; then spectral-bench study ")
    assert all(len(line) < 140 for line in lines[:-1])


def test_the_same_plan_is_registered_once(own: Own) -> None:
    own("register")
    content = Path("sweeps/registered/study_own.json").read_bytes()
    own.change("study:\n", "# A comment.\nstudy:\n  notes: [Read this.]\n")
    (line,) = own("register", "runs_dir=runs", "tracker=none", "trainer.device=cpu")
    assert line.startswith("study_own: registered already, 20")
    assert Path("sweeps/registered/study_own.json").read_bytes() == content


def test_another_plan_is_refused_by_what_differs(own: Own) -> None:
    own("register")
    own.change("margin: 0.01", "margin: 0.02")
    said = own.refused("register")
    assert "study_own: another plan was registered, 20" in said
    assert "(margin: 0.01, now 0.02)" in said
    assert said.endswith("remove sweeps/registered/study_own.json to register anew")
    run("sgd", 0)
    assert own.refused("register").endswith("give it a name of its own (sweep=<name>)")
    renamed = own("register", "sweep=study_own_2", "runs_dir=others")
    assert renamed[0].startswith("study_own_2, registered ")


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("trainer.epochs=3", "horizon: 1, now 3"),
        ("seed=0,1,2", "seeds: [0, 1], now [0, 1, 2]"),
        ("+study.looks=2", "looks: 1, now 2"),
        ("trainer.batch_size=300", 'overrides: [], now ["trainer.batch_size=300"]'),
        ("study.tuning.trials=4", "tuning.trials: 2, now 4"),
    ],
)
def test_overrides_are_a_part_of_the_plan(own: Own, override: str, key: str) -> None:
    own("register")
    assert key in own.refused("register", override)


def test_a_study_with_report_runs_stays_found_afterwards(own: Own) -> None:
    folders = [run("sgd", 0), run("adamw", 1)]
    run("sgd", 1, sweep="another")
    run("sgd", 1000, sweep="study_own_tune")
    since = begin_at(folders[1], datetime(2026, 1, 2, tzinfo=UTC))
    said = own.refused("register")
    assert f"it has 2 report runs already, since {since}; it cannot be registered" in said
    assert "found afterwards" in said
    assert find("study_own") is None
    assert own("register", "runs_dir=elsewhere")[0].startswith("study_own, registered")


def test_archived_report_runs_count(
    own: Own, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source = files.home() / "results" / "study_a_small.parquet"
    Path("results/older").mkdir(parents=True)
    Path("results/older/study.parquet").symlink_to(source)
    said = own.refused("register", "sweep=study_a_small")
    assert "study_a_small: it has 15 report runs already, since 2" in said  # 25 others tuned


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ((SWEEP[SWEEP.index("  registered") : SWEEP.index("  tuning")], ""),
         "sweeps/study_own.yaml: no study.registered in it; declare"),
        (("[adamw, sgd]]", "[adamw, muon]]"), "primary: muon is no optimizer of the grid; choices"),
        (('seed: "0,1"', 'seed: "0,1", optimizer.weight_decay: "0,0.1"'),
         "optimizer.weight_decay: the grid has several values of it, so that an optimizer has"),
        (("sweep: study_own", "sweep: a/b"), "sweep=a/b: no name for a file"),
        (("sweep: study_own", "sweep: null"), "no study; name one of sweeps/"),
        (("outcome: test/accuracy", "outcome: accuracy"), "study.registered.outcome: input should"),
    ],
)  # fmt: skip
def test_what_cannot_be_registered(own: Own, change: tuple[str, str], said: str) -> None:
    own.change(*change)
    assert said in own.refused("register")
    assert not Path("sweeps/registered").exists()


def test_a_folder_that_cannot_be_written_is_one_line(own: Own) -> None:
    Path("sweeps/registered").write_text("a file, and no folder")
    assert "study_own.json: cannot be written (" in own.refused("register")


def test_a_sweep_of_the_checkout_is_registered_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bench").mkdir()
    (tmp_path / "sweeps").mkdir()
    (tmp_path / "away").mkdir()
    monkeypatch.chdir(tmp_path / "away")
    for module in (register, registration):
        monkeypatch.setattr(module, "home", lambda: tmp_path)
    ours, others = tmp_path / "sweeps" / "x.yaml", tmp_path / "mine" / "sweeps" / "x.yaml"
    assert register._place(ours) == tmp_path / "sweeps" / "registered"
    assert register._place(others) == Path("sweeps/registered")
    (tmp_path / "bench").rmdir()  # as in an installed package
    assert register._place(ours) == Path("sweeps/registered")


# -- status ----------------------------------------------------------------------------------------


def test_status_of_a_study_that_is_not_registered(own: Own) -> None:
    first, second = own("status")
    assert first == "study_own: not registered; 0 report runs began"
    assert second.startswith("register it: spectral-bench study register +sweeps=study_own")
    run("sgd", 0)
    assert own("status") == ["study_own: not registered; 1 report runs began"]


def test_status_counts_runs_before_after_outside_and_missing(own: Own) -> None:
    own("register")
    made = find("study_own")
    assert made is not None
    run("sgd", 0)
    run("sgd", 7)
    begin_at(run("adamw", 0), datetime.fromisoformat(made.time) - timedelta(seconds=1))
    assert own("status")[1:] == [
        f"sha256 {made.hash}",
        "plan: as registered",
        "runs: 2 began after the registration, 1 before it",
        "seeds outside the registration: 7",
        "planned runs: 2 of 4 finished",
        "missing: adamw seed 1; sgd seed 1",
    ]
    own.change("margin: 0.01", "margin: 0.5")
    assert own("status")[2] == "plan: changed since: margin: 0.01, now 0.5"


def test_a_registered_study_and_one_with_a_seed_added_afterwards(
    own: Own, tmp_path: Path, quick: Callable[..., Any]
) -> None:
    """From the command to the badge, over run folders."""
    from bench.past_runs import past_runs

    own("register")
    for optimizer in ("sgd", "adamw"):
        for seed in (0, 1):
            run(optimizer, seed)

    def found() -> Any:
        runs = [one for one in past_runs(Path("runs")) if one.reports("study_own")]
        seeds = {one.config["seed"]: one.started for one in runs}
        made = find("study_own")
        assert made is not None
        return badge(
            made, pair=("adamw", "sgd"), outcome="test/accuracy", seeds=seeds,
            horizon=runs[0].config["trainer"]["epochs"], model="mlp", dataset="digits",
            current=current_file_hash(made),
        )  # fmt: skip

    assert (str(found()), found().role) == ("registered", "primary")
    run("adamw", 2)
    assert (str(found()), found().reasons) == ("found afterwards", ("seed 2 was not registered",))


def test_a_study_says_that_it_is_not_registered_and_registers_nothing(
    own: Own, capsys: pytest.CaptureFixture[str]
) -> None:
    said = study.reminder(own.words)
    assert said is not None
    assert said.startswith("study_own is not registered: its verdicts will be `found afterwards`")
    assert find("study_own") is None
    own("register")
    assert study.reminder(own.words) is None
    assert study.reminder(["+sweeps=study_a_8"]) is None  # it declares none


@pytest.mark.parametrize("words", [[], ["--help"], ["register", "-h"], ["status", "--help"]])
def test_help(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    register.main(words)
    assert "study register +sweeps=study_x" in capsys.readouterr().out


def test_as_two_words_of_the_command_line(own: Own, tmp_path: Path) -> None:
    import sys

    def bench(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "bench.main", *words], cwd=tmp_path, check=False,
            capture_output=True, text=True,
        )  # fmt: skip

    done = bench("study", "register", *own.words)
    assert done.returncode == 0, done.stderr
    own.change("margin: 0.01", "margin: 0.02")
    again = bench("study", "register", *own.words)
    assert again.returncode == 2
    assert again.stderr.startswith("error: study_own: another plan was registered")
    assert again.stderr.count("\n") == 1
