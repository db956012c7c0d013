"""A study registered by the command, its runs, and what its tables then say of each verdict."""

from __future__ import annotations

import csv
import io
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import study_runs

from analysis import archive, tables
from analysis.judge.registered import plan_of
from analysis.judge.section import Plan
from analysis.runs import load_runs
from analysis.table.build import build_table
from analysis.table.model import Table
from bench import register
from bench.errors import UserError
from bench.registration import Registration, find, flat

SWEEP = """# @package _global_
defaults:
  - override /model: convnet
sweep: study_x
trainer: {epochs: 20}
study:
  looks: 1
  contrasts: [[sgd, muon]]
  registered:
    outcome: test/accuracy
    primary: [[muon, adamw]]
    secondary: [[sgd, adamw]]
    margin: 0.01
hydra:
  mode: MULTIRUN
  sweeper:
    params: {optimizer: "adamw,muon,sgd", seed: "0,1,2,3,4,5,6,7"}
"""
ADAMW = [0.901, 0.903, 0.902, 0.905, 0.900, 0.904, 0.899, 0.902]
MUON = [0.921, 0.922, 0.925, 0.926, 0.919, 0.923, 0.920, 0.924]
SGD = [0.900, 0.904, 0.901, 0.906, 0.899, 0.905, 0.898, 0.903]
BEFORE = "2020-01-01T00:00:00+00:00"


def later() -> str:
    return (datetime.now(UTC) + timedelta(hours=1)).isoformat(timespec="seconds")


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registration:
    """The registration of `SWEEP`, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    Path("sweeps").mkdir()
    Path("sweeps/study_x.yaml").write_text(SWEEP)
    register.register([f"hydra.searchpath=[file://{tmp_path},file://${{bench_home:}}]",
                       "+sweeps=study_x"])  # fmt: skip
    found = find("study_x")
    assert found is not None
    return found


def as_registered(runs: Any, optimizer: str, seed: int, changes: dict[str, Any]) -> dict[str, Any]:
    """Return a run's config as its registration has it, but for ``changes``."""
    registration = find("study_x")
    assert registration is not None and registration.plan.configs is not None
    config: dict[str, Any] = runs.config(optimizer, seed, sweep="study_x", **changes)
    plain = flat(runs.config(optimizer, seed, sweep="study_x"))
    changed = {key for key, value in flat(config).items() if plain.get(key) != value}
    for key, value in registration.plan.configs[optimizer].items():
        if key not in changed:
            *above, last = key.split(".")
            inner = config
            for part in above:
                inner[part] = dict(inner.get(part) or {})
                inner = inner[part]
            inner[last] = value
    return config


def write(
    runs: Any, optimizer: str, values: list[float], at: str | None, first: int = 0, **changes: Any
) -> None:
    for seed, accuracy in enumerate(values, first):
        config = as_registered(runs, optimizer, seed, changes)
        more = {"test/loss": 1 - accuracy}
        folder = study_runs.write(runs, Path("runs"), config, accuracy, **more)
        path = folder / "provenance.json"
        attempts = json.loads(path.read_text())["attempts"]
        attempts[0] |= {"started": at} if at else {}
        path.write_text(json.dumps({"attempts": attempts}))


@pytest.fixture
def report(runs: Any, made: Registration) -> None:
    """All that was registered, begun afterwards."""
    for name, values in (("adamw", ADAMW), ("muon", MUON), ("sgd", SGD)):
        write(runs, name, values, later())


def table(metric: str = "test/accuracy", source: str = "runs", **how: Any) -> Table:
    plan = plan_of("study_x", metric, **how)
    return build_table(load_runs(source), metric=metric, baseline=["adamw"], plan=plan)


def badges(shown: Table) -> dict[str, tuple[str, tuple[str, ...], str]]:
    """Return (badge, reasons, verdict) of each pair."""
    assert shown.section is not None
    return {
        f"{asked.method} {asked.other}": (str(one.badge), one.badge.reasons, one.verdict)
        for asked, one in shown.section.comparisons.items()
        if one.badge is not None
    }


def printed(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert tables.main(["source=runs", "sweep=study_x", *words]) == 0
    return capsys.readouterr().out


def test_the_plan_is_the_registered_one(made: Registration) -> None:
    plan = plan_of("study_x", "test/accuracy")
    assert (plan.primary, plan.secondary) == ((("muon", "adamw"),), (("sgd", "adamw"),))
    assert plan.contrasts == (("sgd", "muon"),)
    assert (plan.margin, plan.looks, plan.level) == (0.01, 1, 0.05)
    assert plan.registered == f"study_x, {made.time}, hash {made.hash[:12]}"
    other = plan_of("study_x", "test/loss")
    assert (other.primary, other.secondary, other.margin) == ((), (), None)
    assert other.contrasts == (("sgd", "muon"),)  # asked for by any number


@pytest.mark.usefixtures("report")
def test_what_was_registered_and_what_was_not() -> None:
    found = badges(table())
    assert found["muon adamw"] == ("registered", (), "better")
    assert found["sgd adamw"] == ("registered", (), "equivalent")
    afterwards = "sgd and muon are no registered comparison"
    # Equivalence is no difference shown: the last family keeps its own 4 % of the level.
    assert found["sgd muon"] == ("found afterwards", (afterwards,), "undecided")


@pytest.mark.usefixtures("report")
def test_an_archive_keeps_when_runs_began() -> None:
    archive.main(["source=runs", "out=study_x.parquet"])
    assert badges(table(source="study_x.parquet")) == badges(table())


@pytest.mark.usefixtures("made")
def test_a_run_of_another_config_was_not_registered(runs: Any) -> None:
    for name, values in (("adamw", ADAMW), ("sgd", SGD)):
        write(runs, name, values, later())
    write(runs, "muon", MUON, later(), trainer={"epochs": 20, "batch_size": 7})
    (badge, reasons, _) = badges(table())["muon adamw"]
    assert badge == "found afterwards"
    assert len(reasons) == 1 and reasons[0].startswith("trainer.batch_size=7")
    assert " of muon is not the registered " in reasons[0]


@pytest.mark.usefixtures("report")
def test_a_seed_added_afterwards(runs: Any) -> None:
    for name in ("adamw", "muon"):
        write(runs, name, [0.91], later(), first=8)
    found = badges(table())
    assert found["muon adamw"][:2] == ("found afterwards", ("seed 8 was not registered",))
    assert found["sgd adamw"][0] == "registered"  # it is compared by eight seeds
    assert "found afterwards (1 of 3): seed 8 was not registered." in notes_of(table())


def notes_of(shown: Table) -> str:
    return "\n".join(shown.notes)


def test_runs_that_began_before_or_at_no_known_time(runs: Any, made: Registration) -> None:
    write(runs, "adamw", ADAMW, later())
    write(runs, "muon", MUON[:2], BEFORE)
    write(runs, "muon", MUON[2:], later(), first=2)
    write(runs, "sgd", SGD, None)
    found = badges(table())
    assert found["muon adamw"][1] == ("2 seeds began before the registration",)
    assert found["sgd adamw"][1] == ("8 seeds began at a time that is not recorded",)


def test_before_the_last_registered_seed_there_is_no_verdict(runs: Any, made: Registration) -> None:
    write(runs, "adamw", ADAMW, later())
    write(runs, "sgd", SGD, later())
    write(runs, "muon", MUON[:7], later())
    badge, reasons, verdict = badges(table())["muon adamw"]
    assert (badge, reasons, verdict) == ("7 of 8 registered seeds", (), "undecided")
    write(runs, "muon", MUON[7:], later(), first=7)
    assert badges(table())["muon adamw"] == ("registered", (), "better")


def test_a_seed_that_diverged_is_a_result(runs: Any, made: Registration) -> None:
    for name, values in (("adamw", ADAMW), ("sgd", SGD), ("muon", MUON[:7])):
        write(runs, name, values, later())
    config = as_registered(runs, "muon", 7, {})
    folder = study_runs.write(runs, Path("runs"), config, 0.1, state="diverged")
    attempts = json.loads((folder / "provenance.json").read_text())["attempts"]
    (folder / "provenance.json").write_text(
        json.dumps({"attempts": [attempts[0] | {"started": later()}]})
    )
    # Registered and complete; not better, because its lucky seeds are left.
    assert badges(table())["muon adamw"] == ("registered", (), "undecided")


@pytest.mark.usefixtures("report")
def test_another_outcome_was_not_registered() -> None:
    reason = "outcome test/loss is not the registered one (test/accuracy)"
    found = badges(table("test/loss"))
    assert found["muon adamw"] == ("found afterwards", (reason,), "better")
    assert found["sgd adamw"][2] == "undecided"  # the margin was of the accuracy


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ({"margin": 0.03}, "margin 0.03 is not the registered one"),
        ({"looks": 2}, "2 interim analyses are not the registered 1"),
        ({"level": 0.1}, "level 0.1 is not 0.05"),
    ],
)
@pytest.mark.usefixtures("report")
def test_what_is_given_besides_is_not_what_was_registered(how: Any, reason: str) -> None:
    plan = plan_of("study_x", "test/accuracy", **how)
    assert {key: getattr(plan, key) for key in how} == how
    assert badges(table(**how))["muon adamw"][:2] == ("found afterwards", (reason,))
    same = {"margin": 0.01, "looks": 1, "level": 0.05}
    assert badges(table(**same)) == badges(table())


@pytest.mark.parametrize("longer", ["muon", "adamw"])
def test_another_horizon_of_either_side(runs: Any, made: Registration, longer: str) -> None:
    for name, values in (("adamw", ADAMW), ("muon", MUON)):
        write(runs, name, values, later(), trainer__epochs=30 if name == longer else 20)
    found = badges(table())["muon adamw"]
    assert found[:2] == ("found afterwards", ("30 epochs are not the registered 20",))


@pytest.mark.usefixtures("report")
def test_a_file_changed_since(tmp_path: Path) -> None:
    path = tmp_path / "sweeps/study_x.yaml"
    path.write_text(SWEEP.replace("{epochs: 20}", "{epochs: 21}"))
    assert badges(table())["muon adamw"][1] == ("the plan was changed after its registration",)
    path.write_text(SWEEP.replace("study:", "study:\n  notes: [Only a note.]"))
    assert badges(table())["muon adamw"][0] == "registered"


def test_runs_of_no_study_or_of_one_that_is_not_registered(runs: Any, made: Registration) -> None:
    for sweep in (None, "study_y"):
        plan = plan_of(sweep, "test/accuracy")
        assert (plan.pairs, plan.margin, plan.registered) == ((), None, "")
        assert plan.badge is not None
        assert plan.badge(("a", "b"), [], []).reasons == ("not registered",)
    assert Plan().badge is None


@pytest.mark.usefixtures("report")
def test_tables_print_it(capsys: pytest.CaptureFixture[str], made: Registration) -> None:
    out = printed(capsys, "baseline=adamw", "format=markdown")
    muon = next(line for line in out.splitlines() if line.startswith("| muon"))
    sgd = next(line for line in out.splitlines() if line.startswith("| sgd"))
    assert "] better, registered, primary |" in muon
    assert "] equivalent, registered, secondary |" in sgd
    assert f"Registered: study_x, {made.time}, hash {made.hash[:12]}." in out
    assert "- muon against adamw: +2.05 [" in out
    assert "found afterwards (1 of 3): sgd and muon are no registered comparison." in out
    assert (
        "over 1 primary comparison (80 % of the level), 1 secondary comparison (16 % of the level),"
        " 1 further comparison (4 % of the level), a family passing its part on where each of its"
        " differences is shown, at 0.05."
    ) in out
    rows = {row["row"]: row for row in csv.DictReader(io.StringIO(
        printed(capsys, "baseline=adamw", "format=csv")
    ))}  # fmt: skip
    assert {name: (row["verdict"], row["registered"]) for name, row in rows.items()} == {
        "adamw": ("", ""), "muon": ("better", "registered"), "sgd": ("equivalent", "registered"),
    }  # fmt: skip
    changed = printed(capsys, "baseline=adamw", "margin=0.03")
    assert ": margin 0.03 is not the registered one." in changed
    assert "registered, primary" not in changed


@pytest.mark.usefixtures("report")
def test_without_a_baseline_the_registered_comparisons_are_printed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = printed(capsys)
    assert "muon against adamw: +2.05 [" in out and "; registered, primary." in out
    assert "max-T" not in printed(capsys, "metric=test/loss")


@pytest.mark.usefixtures("report")
def test_a_damaged_registration_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "sweeps/registered/study_x.json"
    path.write_text(path.read_text().replace("0.01", "0.1"))
    with pytest.raises(UserError, match=r"study_x.json: it was changed after it was written"):
        plan_of("study_x", "test/accuracy")
