"""A run's id is a function of everything that could change its result, and of nothing else."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench import config, files
from bench.config import RunConfig, TrainerConfig
from bench.errors import UserError
from bench.identity import NOT_SCIENTIFIC, NOT_SCIENTIFIC_TRAINER, digest, identify, scientific
from optimizers import Muon

OPTIMIZERS = sorted(path.stem for path in (files.conf_dir() / "optimizer").glob("*.yaml"))
Path_ = tuple[str | int, ...]

# JSON values as a config holds them.
SCALARS = st.none() | st.booleans() | st.integers(-9, 9) | st.floats(-9, 9) | st.text(max_size=3)
TREES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=8,
)


@pytest.fixture(scope="module")
def base() -> RunConfig:
    return config.load()


@pytest.fixture
def every_run(exponents: Callable[..., Path]) -> list[RunConfig]:
    """One checked run for each shipped optimizer, with a file of exponents."""
    return [config.load([f"optimizer={name}", f"exponents={exponents()}"]) for name in OPTIMIZERS]


def rebuilt(values: dict[str, Any]) -> RunConfig:
    """A config of these values, unchecked: perturbed ones need not be possible."""
    trainer = TrainerConfig.model_construct(**values["trainer"])
    return RunConfig.model_construct(**{**values, "trainer": trainer})


def leaves(value: Any, path: Path_ = ()) -> Iterator[tuple[Path_, Any]]:
    items: Any = ()
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    else:
        yield path, value
    for key, item in items:
        yield from leaves(item, (*path, key))


def perturbed(value: Any) -> Any:
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    if isinstance(value, float):
        return value * (1 + 1e-12) if value else 1e-300  # the smallest change counts
    return 1 if value is None else f"{value}x"


def replaced(values: dict[str, Any], path: Path_, new: Any) -> dict[str, Any]:
    values = copy.deepcopy(values)
    branch: Any = values
    for key in path[:-1]:
        branch = branch[key]
    branch[path[-1]] = new
    return values


def counts(path: Path_) -> bool:
    """Whether the leaf at ``path`` can change a run's result (files apart)."""
    if path[0] == "trainer":
        return path[1] not in {
            "device",
            "threads",
            "progress",
            "log_every",
            "checkpoint_every",
            "checkpoint_seconds",
            "evaluate_every",
            "evaluate_samples",
            "eval_batch_size",
            "compile",
            "cuda_graph",
            "curvature_every",
            "curvature",
            "accounting",
            "devices",
        }
    if path[0] == "optimizer" and path[-1] in {"compile", "fused", "foreach", "capturable"}:
        return False
    return path[0] in {"model", "dataset", "optimizer", "schedule", "seed"}


@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")
def test_every_leaf_that_counts_changes_the_id_and_no_other_does(
    every_run: list[RunConfig],
) -> None:
    seen: dict[str, Any] = {}
    for run in every_run:
        values, own = run.model_dump(), identify(run)
        seen[own.id] = "unchanged"
        for path, value in leaves(values):
            if path[0] == "names" or path == ("optimizer", "exponents"):
                continue
            other = identify(rebuilt(replaced(values, path, perturbed(value))))
            if counts(path):
                assert other.id not in seen, (path, seen.get(other.id))
                assert (other.variant == own.variant) == (path == ("seed",)), path
                seen[other.id] = path
            else:
                assert other == own, path
    assert len(seen) > 100


def test_a_key_less_or_more_is_another_run(base: RunConfig) -> None:
    values = base.model_dump()
    more = replaced(values, ("optimizer", "amsgrad"), False)
    less = copy.deepcopy(values)
    del less["optimizer"]["eps"]
    ids = {identify(rebuilt(v)).id for v in (values, more, less)}
    assert len(ids) == 3


def test_the_lists_of_what_does_not_count_name_real_keys() -> None:
    assert set(RunConfig.model_fields) > NOT_SCIENTIFIC
    assert set(TrainerConfig.model_fields) > NOT_SCIENTIFIC_TRAINER


def test_how_many_processes_read_the_data_does_not_count() -> None:
    own, *others = (
        identify(config.load(["dataset=synthetic_images", "tracker=none", f"dataset.workers={n}"]))
        for n in ("null", 0, 4)
    )
    assert others == [own, own]
    other = identify(config.load(["dataset=synthetic_images", "tracker=none", "dataset.pad=1"]))
    assert other.id != own.id


def test_the_seed_is_in_the_id_and_not_in_the_variant(base: RunConfig) -> None:
    runs = [identify(base.model_copy(update={"seed": seed})) for seed in range(20)]
    assert len({run.id for run in runs}) == 20
    assert len({run.variant for run in runs}) == 1
    for seed, run in enumerate(runs):
        assert run.id.startswith(f"digits-convnet-adamw-s{seed}-")


def test_the_id_is_a_folder_name_and_a_wandb_id(every_run: list[RunConfig]) -> None:
    for run in every_run:
        name = identify(run).id
        assert len(name) <= 64
        assert not set(name) & set("/\\#?%: ")
    nested = every_run[0].model_copy(update={"names": {**every_run[0].names, "model": "a/b"}})
    assert "/" not in identify(nested).id


def test_a_presets_name_alone_is_in_the_id() -> None:
    # Two files of one content would otherwise share a folder under the first one's name.
    runs = [config.load(["optimizer=adamw"]) for _ in range(2)]
    runs[1] = runs[1].model_copy(update={"names": {**runs[1].names, "optimizer": "copy"}})
    first, second = (identify(run) for run in runs)
    assert first.id != second.id
    assert first.variant != second.variant


def test_the_order_of_keys_does_not_matter(base: RunConfig) -> None:
    def reordered(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: reordered(item) for key, item in reversed(list(value.items()))}
        return value

    values = base.model_dump()
    turned = reordered(values)
    assert list(turned) != list(values)
    assert identify(rebuilt(turned)) == identify(base)
    assert identify(config.load(["optimizer.eps=1e-8", "optimizer.lr=2e-3"])) == identify(base)


def test_how_a_number_is_written_does_not_matter(base: RunConfig) -> None:
    assert identify(config.load(["optimizer.lr=0.002", "schedule.final=0"])) == identify(base)
    assert identify(config.load(["trainer.label_smoothing=0"])) == identify(base)


def test_presets_that_change_nothing_are_the_same_run(base: RunConfig, tmp_path: Path) -> None:
    same = [
        ["tracker=none"],
        [f"runs_dir={tmp_path}", "data_dir=elsewhere", "sweep=s"],
        ["trainer.device=cpu", "trainer.threads=1", "trainer.progress=none"],
        ["trainer.log_every=3", "trainer.checkpoint_every=7", "trainer.eval_batch_size=10"],
        ["trainer.checkpoint_seconds=0.5"],
        ["trainer.evaluate_every=5"],
        ["trainer.evaluate_samples=7"],
        ["trainer.compile=true", "trainer.cuda_graph=false"],
        ["+optimizer.fused=true", "+optimizer.capturable=true"],
        ["+optimizer.foreach=false"],
    ]
    for overrides in same:
        assert identify(config.load(overrides)) == identify(base), overrides


@pytest.mark.parametrize("name", ["muon", "spectral_newton", "torch_muon"])
def test_how_an_optimizer_is_computed_is_not_another_run(name: str) -> None:
    compiled = config.load([f"optimizer={name}", "trainer.compile=true"])
    assert identify(compiled) == identify(config.load([f"optimizer={name}"]))
    assert compiled.optimizer.get("compile", True)  # the trainer decides for ours
    if name == "torch_muon":  # an optimizer inside another one
        inside = config.load([f"optimizer={name}", "+optimizer.other.fused=true"])
        assert identify(inside) == identify(compiled)


# -- defaults -------------------------------------------------------------------------------------


def test_a_changed_default_of_our_code_is_another_run(monkeypatch: pytest.MonkeyPatch) -> None:
    # The YAML says nothing of adamw_eps; an id of the YAML's keys alone would not change.
    before = config.load(["optimizer=muon"])
    defaults = dict(Muon.__init__.__kwdefaults__)
    assert "adamw_eps" in defaults
    monkeypatch.setattr(
        Muon.__init__, "__kwdefaults__", {**defaults, "adamw_eps": 2 * defaults["adamw_eps"]}
    )
    after = config.load(["optimizer=muon"])
    assert identify(after).id != identify(before).id
    assert identify(after).variant != identify(before).variant


def test_a_default_given_by_hand_is_the_same_run() -> None:
    value = Muon.__init__.__kwdefaults__["adamw_eps"]
    by_hand = config.load(["optimizer=muon", f"+optimizer.adamw_eps={value!r}"])
    assert identify(by_hand) == identify(config.load(["optimizer=muon"]))


# -- files ----------------------------------------------------------------------------------------


def with_exponents(path: Path) -> RunConfig:
    return config.load(["optimizer=scalar_spectral_adam", f"exponents={path}"])


def test_a_file_counts_by_content_and_not_by_path(exponents: Callable[..., Path]) -> None:
    one, same = exponents("one.parquet"), exponents("folder/other.parquet")
    assert one.read_bytes() == same.read_bytes()
    changed = exponents("changed.parquet", alpha=[2.0, 2.1, 2.2, 2.4])
    first = identify(with_exponents(one))
    assert identify(with_exponents(same)) == first
    assert identify(with_exponents(changed)).id != first.id
    assert identify(with_exponents(changed)).variant != first.variant
    digest_ = scientific(with_exponents(one))["optimizer"]["exponents"]
    assert digest_ == "sha256:" + hashlib.sha256(one.read_bytes()).hexdigest()


def test_a_file_that_nobody_reads_does_not_count(
    exponents: Callable[..., Path], base: RunConfig
) -> None:
    assert identify(config.load([f"exponents={exponents()}"])) == identify(base)


def test_a_file_that_is_gone_is_one_line(exponents: Callable[..., Path], tmp_path: Path) -> None:
    path = exponents()
    run = with_exponents(path)
    path.unlink()
    with pytest.raises(UserError, match=r"^optimizer\.exponents: cannot read '.*No such file"):
        identify(run)


# -- the hash -------------------------------------------------------------------------------------


def test_the_digest_is_sha256_of_canonical_json() -> None:
    value = {"b": [1, 2.5, None], "a": {"d": True, "c": "é"}}
    text = '{"a":{"c":"\\u00e9","d":true},"b":[1,2.5,null]}'
    assert digest(value) == hashlib.sha256(text.encode()).hexdigest()[:10]


@settings(max_examples=100, deadline=None)
@given(first=TREES, second=TREES)
def test_the_digest_tells_values_apart(first: Any, second: Any) -> None:
    same = json.dumps(first, sort_keys=True) == json.dumps(second, sort_keys=True)
    assert (digest(first) == digest(second)) == same


def test_what_json_does_not_have_is_no_identity() -> None:
    with pytest.raises(ValueError, match="JSON"):
        digest({"lr": float("nan")})


def test_ids_are_the_same_in_every_process(exponents: Callable[..., Path], tmp_path: Path) -> None:
    path = exponents()
    wanted = ["optimizer=scalar_spectral_adam", f"exponents={path}", "seed=3"]
    program = (
        "import sys; from bench.config import load; from bench.identity import identify; "
        "print(*vars(identify(load(sys.argv[1:]))).values())"
    )
    own = identify(config.load(wanted))
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", program, *wanted],
            env={**os.environ, "PYTHONHASHSEED": seed},
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            text=True,
        )
        for seed in ("1", "2")
    ]
    for process in processes:
        out, _ = process.communicate(timeout=120)
        assert out.split() == [own.id, own.variant]
