"""The quick way to compose a grid gives what Hydra would, for every kind of override."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from bench import config
from bench.identity import identify
from bench.launch.grid import Composer, Invalid, Job, combinations, master_config


class Counting(Composer):
    """A composer that counts how often it asks Hydra."""

    composed: int

    def _base(self, overrides: tuple[str, ...]) -> Any:
        self.composed = len(self._bases) + (overrides not in self._bases)
        return super()._base(overrides)


def expand(loader: Any, *words: str) -> tuple[Counting, list[Job | Invalid]]:
    master = master_config(loader, words)
    composer = Counting(loader, master)
    return composer, [composer.job(one) for one in combinations(master)]


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ["seed=0,1", "optimizer.lr=0.1,1e-3", "trainer.epochs=1,2"],
        ["optimizer=sgd,muon,adamw", "seed=3,4", "trainer.grad_clip=null,1.0"],
        ["model=mlp", "model.hidden=[8],[8,4]", "seed=0,1"],  # a list is for Hydra
        ["~optimizer.weight_decay", "optimizer.lr=0.1,0.2", "seed=0"],
        ["+optimizer.amsgrad=true,false", "optimizer.lr=0.1"],
        ["optimizer=sgd", "optimizer={lr: 0.3, momentum: 0.5}", "optimizer.lr=0.1,0.2"],
        ["exponents=a.parquet,b.parquet", "optimizer=scalar_spectral_adam,adamw"],
        ["trainer=debug,default", "trainer.epochs=2,3", "seed=0"],
        ["sweep=one,two", "seed='${trainer.epochs}',5"],  # a value that speaks of another
        ["optimizer=sgd,adamw", "optimizer.momentum=0.5,0.6"],  # a key that is not everywhere
        ["runs_dir=a,b", "tracker=none", "seed=-1,1"],
        ["optimizer.betas=[0.9,0.99]", "optimizer.lr=3,nan"],
        ["schedule.warmup=0.1,0.2", "tracker.tags=[a]", "trainer.epochs=1.5,2"],
        ["names.model=x,y"],
        ["seed=0,12345678901234567890,007,1_0,-0,+3,1.0", "trainer.threads=2,0,2.0"],
        ["model.width=3,x", "trainer.curvature_every=4", "seed=1", "tracker=none"],
        ["sweep=5,a", "trainer=debug"],  # a number where a name belongs
        ["optimizer.lr=0.1,0.2", "+optimizer={lr: 0.3}"],  # the later one holds
        ["trainer.eval_batch_size=${trainer.batch_size},7", "seed=0"],
        ["sweep=???,a"],
        ["trainer.curvature=null,3,x", "model.hidden=3", "model=mlp"],  # of a mapping, of a list
        ["optimizer.lr@model=0.1,0.2"],
        ["~optimizer.weight_decay=1,2", "seed=0,1"],
        ["optimizer.lr=1,2", "+optimizer.extra=1", "optimizer.betas=3", "dataset.pad=1"],
    ],
)
def test_as_hydra_would(loader: Any, words: Sequence[str], tmp_path: Path) -> None:
    _, made = expand(loader, *words)
    master = master_config(loader, words)
    assert len(made) == len(combinations(master)) >= 1
    for one, overrides in zip(made, combinations(master), strict=True):
        assert one.overrides == tuple(overrides)
        try:
            composed = loader.load_sweep_config(master, list(overrides))
            choices = composed.hydra.runtime.choices
            whole = config.typed(config.container(config.without_hydra(composed)), choices)
            whole = config.with_curvature(whole)
            expected: Any = (whole, identify(whole))
        except Exception:
            assert isinstance(one, Invalid)
            assert one.reason
            assert "\n" not in one.reason
            continue
        assert isinstance(one, Job)
        assert (one.config, one.identity) == expected


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("optimizer=3,4", "optimizer: input should be a valid dictionary, not "),
        ("optimizer=adamx,adamy", "optimizer=adam"),
        ("trainer.curvature=null trainer.curvature_every=2,3", "trainer.curvature: missing"),
        ("trainer.lr=3,4", "trainer.lr: unknown key"),
        ("sweep='???',???", "sweep: Missing mandatory value"),
    ],
)
def test_what_cannot_be_composed_says_why(loader: Any, word: str, says: str) -> None:
    for one in expand(loader, *word.split())[1]:
        assert isinstance(one, Invalid)
        assert one.reason.startswith(says)


def test_an_interpolation_is_resolved_in_each_combination(loader: Any) -> None:
    words = ["trainer.batch_size=16,32", "trainer.eval_batch_size=${trainer.batch_size}"]
    runs = [one for one in expand(loader, *words)[1] if isinstance(one, Job)]
    assert [run.config.trainer.eval_batch_size for run in runs] == [16, 32]


def test_hydra_composes_once_for_all_plain_values(loader: Any) -> None:
    composer, made = expand(
        loader, "optimizer=sgd,adamw", "seed=range(20)", "optimizer.lr=0.1,0.2", "trainer.epochs=3"
    )
    assert composer.composed == 2
    runs = [one for one in made if isinstance(one, Job)]
    assert len({run.identity.id for run in runs}) == len(made) == 80
    assert {run.config.seed for run in runs} == set(range(20))
    assert {run.config.optimizer["lr"] for run in runs} == {0.1, 0.2}
    assert all(run.config.trainer.epochs == 3 for run in runs)


def test_combinations_do_not_share_what_one_of_them_changes(loader: Any) -> None:
    _, made = expand(loader, "optimizer.lr=0.1,0.2,0.1")
    rates = [one.config.optimizer["lr"] for one in made if isinstance(one, Job)]
    assert rates == [0.1, 0.2, 0.1]
    assert config.load([]).optimizer["lr"] not in rates


def test_a_device_that_is_elsewhere(loader: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    master = master_config(loader, ["trainer.device=cuda"])
    (overrides,) = combinations(master)
    here = Composer(loader, master).job(overrides)
    assert isinstance(here, Invalid)
    assert "0 CUDA devices" in here.reason
    there = Composer(loader, master, elsewhere=True).job(overrides)
    assert isinstance(there, Job)
    assert there.config.trainer.device == "cuda"


def test_the_grid_of_a_sweep_file(loader: Any) -> None:
    _, made = expand(loader, "+sweeps=digits", "seed=7", "optimizer=sgd,adamw")
    runs = [one for one in made if isinstance(one, Job)]
    assert [(run.config.names["optimizer"], run.config.seed) for run in runs] == [
        ("sgd", 7),
        ("adamw", 7),
    ]
    assert {run.config.sweep for run in runs} == {"digits"}


def test_thousands_in_seconds(loader: Any) -> None:
    started = time.process_time()
    _, made = expand(loader, "seed=range(50)", f"optimizer.lr={','.join(map(str, range(1, 21)))}")
    assert len(made) == 1000
    assert time.process_time() - started < 4.0  # Hydra alone would need minutes
