"""What is registered: its section in a sweep file, its file, its hash; and who keeps to it."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench import registration
from bench.errors import UserError
from bench.files import home
from bench.registration import Badge, RegisteredPlan, Registration, badge, file_hash, find, read
from bench.tuning.spec import study_in, study_of

GRID = ["sgd", "adamw", "muon", "soap"]
PLAN: dict[str, Any] = {
    "outcome": "test/accuracy",
    "primary": [["muon", "adamw"]],
    "secondary": [["soap", "adamw"]],
    "margin": 0.001,
    "stopping": "fixed seeds",
    "predicted": None,
    "known": ["Muon won elsewhere."],
    "horizon": 8,
    "seeds": [0, 1, 2, 3, 4, 5],
    "optimizers": GRID,
    "models": ["convnet"],
    "datasets": ["digits"],
    "looks": 1,
    "tuning": {"trials": 3},
    "overrides": [],
    "file": "f" * 64,
}
TIME = "2026-11-30T12:00:00+00:00"
AFTER, BEFORE = "2026-11-30T12:00:00+00:00", "2026-11-30T11:59:59+00:00"


def plan(**changes: Any) -> RegisteredPlan:
    return RegisteredPlan.model_validate(PLAN | changes)


def registered(**changes: Any) -> Registration:
    made = plan(**changes)
    return Registration("study_x", TIME, made.hash, "study_x", "0.1.0", None, made)


def seeds(*numbers: int, at: str | None = AFTER) -> dict[int, str | None]:
    return dict.fromkeys(numbers, at)


def of(section: dict[str, Any]) -> Any:
    asked = study_of({"study": {"registered": section}}).registered
    assert asked is not None
    return asked


# -- the section of a sweep file -------------------------------------------------------------------


def test_a_star_is_every_other_optimizer_and_no_pair_is_there_twice() -> None:
    asked = of(
        {
            "outcome": "test/loss",
            "primary": [["muon", "adamw"]],
            "secondary": [["*", "adamw"], ["soap", "sgd"], ["*", "sgd"]],
        }
    )
    primary, secondary = asked.comparisons(GRID)
    assert primary == [("muon", "adamw")]
    assert secondary == [
        ("sgd", "adamw"), ("soap", "adamw"), ("soap", "sgd"), ("muon", "sgd"),
    ]  # fmt: skip


LEAST = {"outcome": "test/accuracy", "primary": [["muon", "adamw"]]}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"outcome": "test/acc"}, "study.registered.outcome: input should be 'test/accuracy', "),
        ({"primary": []}, "study.registered.primary: list should have at least 1 item"),
        ({"primary": [["a", x] for x in "bcde"]}, "study.registered.primary: list should have at"),
        ({"primary": [["muon", "muon"]]}, "study.registered.primary: muon cannot be compared with"),
        ({"primary": [["a", "b"], ["b", "a"]]}, "study.registered.primary: a pair stands there"),
        ({"primary": [["*", "adamw"]]}, 'study.registered.primary: "*" is for secondary'),
        (
            {"secondary": [["adamw", "*"]]},
            'study.registered.secondary: write the "*" first: ["*", ',
        ),
        ({"secondary": [["muon"]]}, "study.registered.secondary.0.1: field required"),
        ({"margin": 0}, "study.registered.margin: input should be greater than 0"),
        ({"margin": "0.1"}, "study.registered.margin: input should be a valid number"),
        ({"margins": 0.1}, "study.registered.margins: extra inputs are not permitted"),
        ({"known": "much"}, "study.registered.known: input should be a valid list"),
    ],
)
def test_a_mistake_is_one_line(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError) as caught:
        of(LEAST | changes)
    assert str(caught.value).startswith(said)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"primary": [["mun", "adamw"]]}, "primary: mun is no optimizer of the grid; did you mean"),
        ({"secondary": [["*", "adam"]]}, "secondary: adam is no optimizer of the grid; did you"),
        ({"predicted": "lion"}, "predicted: lion is no optimizer of the grid; "),
    ],
)
def test_who_is_compared_is_in_the_grid(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError) as caught:
        of(LEAST | changes).comparisons(GRID)
    assert str(caught.value).startswith(f"study.registered.{said}")


# -- its file --------------------------------------------------------------------------------------

SWEEP = """
# @package _global_
sweep: study_x
trainer: {epochs: 8, device: cpu}
study:
  question: Why?
  registered: {outcome: test/accuracy, primary: [[muon, adamw]]}
hydra:
  sweeper:
    params:
      optimizer: adamw,muon
      seed: 0,1,2
"""


def file(folder: Path, *changes: tuple[str, str]) -> Path:
    text = SWEEP
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    path = folder / "study_x.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    "change",
    [
        ("# @package", "# A comment.\n# @package"),
        ("Why?", "Why not?"),
        ("study:\n", "study:\n  notes: [Something.]\n  contrasts: [[muon, adamw]]\n"),
        ("{epochs: 8, device: cpu}", "{device: cuda, epochs: 8}"),
        ("seed: 0,1,2", "seed: 2, 1, 0"),
        ("      optimizer: adamw,muon\n      seed: 0,1,2\n",
         "      seed: 0,1,2\n      optimizer: muon,adamw\n"),
        ("sweep: study_x", "sweep: study_x\nruns_dir: elsewhere"),
    ],
)  # fmt: skip
def test_what_changes_no_result_leaves_the_hash(tmp_path: Path, change: tuple[str, str]) -> None:
    assert file_hash(file(tmp_path, change)) == file_hash(file(tmp_path))


@pytest.mark.parametrize(
    "change",
    [
        ("seed: 0,1,2", "seed: 0,1,2,3"),
        ("adamw,muon", "adamw,muon,sgd"),
        ("epochs: 8", "epochs: 9"),
        ("test/accuracy", "test/loss"),
        ("[muon, adamw]", "[adamw, muon]"),
        ("study:\n", "study:\n  looks: 2\n"),
        ("trainer:", "optimizer: {weight_decay: 0.1}\ntrainer:"),
        ("trainer:", "target: {metric: val/loss, value: 1.0}\ntrainer:"),
    ],
)
def test_what_could_change_a_result_or_its_analysis_changes_the_hash(
    tmp_path: Path, change: tuple[str, str]
) -> None:
    assert file_hash(file(tmp_path, change)) != file_hash(file(tmp_path))


def test_the_hash_is_sha_256_of_sorted_json() -> None:
    text = json.dumps(dict(reversed(PLAN.items())), sort_keys=True, separators=(",", ":"))
    assert plan().hash == hashlib.sha256(text.encode()).hexdigest()


def write(folder: Path, content: dict[str, Any]) -> Path:
    path = folder / "sweeps" / "registered" / "study_x.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def test_what_is_written_is_read_again_in_any_order_of_keys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert find("study_x") is None
    made = registered()
    content = made.as_json()
    write(tmp_path, {key: content[key] for key in reversed(content)})
    assert find("study_x") == made
    assert find("study_y") is None
    assert find("../registered/study_x") is None


def test_one_beside_the_shipped_sweeps_is_found_from_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr(registration, "home", lambda: tmp_path / "home")
    write(tmp_path / "home", registered().as_json())
    assert find("study_x") == registered()
    nearer = registered(margin=0.5)
    write(tmp_path / "here", nearer.as_json())
    assert find("study_x") == nearer  # one's own comes first


def test_a_plan_with_a_key_that_is_not_known_is_refused(tmp_path: Path) -> None:
    """As one of a later suite; it is not taken for a change by hand."""
    content = registered().as_json()
    content["plan"]["later"] = 1
    with pytest.raises(UserError, match=r"study_x.json: no registration \(Extra inputs are not"):
        read(write(tmp_path, content))


@pytest.mark.parametrize("where", ["margin", "seeds", "hash"])
def test_a_file_that_was_changed_by_hand_is_refused(tmp_path: Path, where: str) -> None:
    content = registered().as_json()
    if where == "hash":
        content["hash"] = "0" * 64
    else:
        content["plan"][where] = 0.5 if where == "margin" else [0, 1]
    with pytest.raises(UserError, match=r"study_x.json: it was changed after it was written"):
        read(write(tmp_path, content))


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"plan": 3}', '{"plan": {}}'])
def test_a_damaged_file_is_one_line(tmp_path: Path, text: str) -> None:
    path = write(tmp_path, {})
    path.write_text(text)
    with pytest.raises(UserError, match=r"no registration .*; restore the file") as caught:
        read(path)
    assert "\n" not in str(caught.value)


def test_differences_name_key_and_both_values() -> None:
    assert plan().differences(plan()) == []
    changed = plan(margin=0.01, seeds=[0, 1], file="0" * 64)
    assert plan().differences(changed) == [
        "margin: 0.001, now 0.01",
        "seeds: [0, 1, 2, 3, 4, 5], now [0, 1]",
    ]
    assert plan().differences(plan(file="0" * 64)) == ["file: another value of the sweep file"]


# -- badges ----------------------------------------------------------------------------------------

ALL = seeds(*range(6))


def judged(made: Registration | None = None, **changes: Any) -> Badge:
    asked: dict[str, Any] = {"pair": ("muon", "adamw"), "outcome": "test/accuracy", "seeds": ALL}
    return badge(made or registered(), **(asked | changes))


@pytest.mark.parametrize(
    ("pair", "role"),
    [
        (("muon", "adamw"), "primary"),
        (("adamw", "muon"), "primary"),
        (("adamw", "soap"), "secondary"),
    ],
)
def test_a_registered_comparison(pair: tuple[str, str], role: str) -> None:
    found = judged(pair=pair, horizon=8.0, model="convnet", dataset="digits", current="f" * 64)
    assert (found.registered, found.complete, found.role, found.reasons) == (True, True, role, ())
    assert str(found) == "registered"


@pytest.mark.parametrize(
    ("changes", "reasons"),
    [
        ({"pair": ("muon", "sgd")}, ["muon and sgd are no registered comparison"]),
        ({"outcome": "test/loss"}, ["outcome test/loss is not the registered one (test/accuracy)"]),
        ({"horizon": 30}, ["30 epochs are not the registered 8"]),
        ({"model": "mlp"}, ["mlp was not registered"]),
        ({"dataset": "cifar10"}, ["cifar10 was not registered"]),
        ({"seeds": ALL | seeds(15)}, ["seed 15 was not registered"]),
        ({"seeds": ALL | seeds(15, 7)}, ["seeds 7, 15 were not registered"]),
        ({"seeds": ALL | seeds(0, at=BEFORE)}, ["1 seed began before the registration"]),
        ({"seeds": seeds(*range(6), at=BEFORE)}, ["6 seeds began before the registration"]),
        ({"seeds": ALL | seeds(2, at=None)}, ["1 seed began at a time that is not recorded"]),
        ({"seeds": ALL | seeds(2, at="noon")}, ["1 seed began at a time that is not recorded"]),
        ({"current": "0" * 64}, ["the plan was changed after its registration"]),
        (
            {"pair": ("soap", "sgd"), "outcome": "test/loss", "seeds": seeds(9, at=BEFORE)},
            [
                "soap and sgd are no registered comparison",
                "outcome test/loss is not the registered one (test/accuracy)",
                "seed 9 was not registered",
                "1 seed began before the registration",
            ],
        ),
    ],
)  # fmt: skip
def test_what_was_found_afterwards_says_why(changes: dict[str, Any], reasons: list[str]) -> None:
    found = judged(**changes)
    assert list(found.reasons) == reasons
    assert not found.registered
    assert str(found) == "found afterwards"


def test_a_study_without_a_registration() -> None:
    found = badge(None, pair=("muon", "adamw"), outcome="test/accuracy", seeds=ALL)
    assert (found.role, found.reasons, str(found)) == (
        None,
        ("not registered",),
        "found afterwards",
    )


def test_seeds_that_are_missing_are_no_verdict_yet() -> None:
    found = judged(seeds=seeds(0, 1, 2, 3, 4))
    assert (found.registered, found.complete, found.seeds, found.planned) == (True, False, 5, 6)
    assert str(found) == "5 of 6 registered seeds"


def test_a_time_in_another_zone_is_the_same_time() -> None:
    assert judged(seeds=seeds(*range(6), at="2026-11-30T13:30:00+02:00")).reasons
    assert not judged(seeds=seeds(*range(6), at="2026-11-30T13:30:00+01:00")).reasons


@given(st.dictionaries(st.integers(0, 20), st.sampled_from([AFTER, BEFORE, None]), max_size=12))
def test_it_is_registered_only_with_registered_seeds_that_began_afterwards(
    given_seeds: dict[int, str | None],
) -> None:
    found = judged(seeds=given_seeds)
    kept = all(seed < 6 and time == AFTER for seed, time in given_seeds.items())
    assert found.registered == kept
    assert (str(found) == "registered") == (kept and set(given_seeds) == set(range(6)))
    more = judged(seeds=given_seeds | seeds(99))  # a seed afterwards never makes it registered
    assert not more.registered


def test_a_changed_plan_has_another_hash_whatever_changes() -> None:
    hashes = {plan(margin=m, looks=looks).hash for m in (None, 0.1, 0.2) for looks in (1, 2)}
    assert len(hashes) == 6
    assert replace(registered(), time=BEFORE).hash == registered().hash


# -- the shipped files, and what reading them imports ----------------------------------------------


def test_registrations_of_the_shipped_sweeps_fit_their_grids() -> None:
    found = []
    for path in sorted((home() / "sweeps").glob("*.yaml")):
        if study_in(path).registered is not None:
            found.append(path.stem)
    assert "demo_study" in found


REGISTERED = sorted(
    path
    for path in (home() / "sweeps" / "registered").glob("*.json")
    if path.stem != "demo_study"  # made by `make study`, and not committed
)


@pytest.mark.parametrize("path", REGISTERED, ids=[path.stem for path in REGISTERED])
def test_no_registered_study_was_changed_since_neither_its_file_nor_what_of_it_counts(
    path: Path,
) -> None:
    made = read(path)
    assert made.study == path.stem
    assert registration.current_file_hash(made) == made.plan.file


def test_it_imports_neither_torch_nor_pandas() -> None:
    code = (
        "import sys, bench.registration, bench.past_runs; "
        "print([name for name in ('torch', 'pandas', 'scipy', 'pyarrow') if name in sys.modules])"
    )
    made = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=home()
    )
    assert made.stdout.strip() == "[]"
