"""Whole runs with trainer.compile=true on the CPU: the result of eager ones, a clock of its own."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench import config, train
from bench.identity import identify
from bench.run_folder import RunFolder

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler"),
]


@pytest.fixture
def carry_out(tmp_path: Path, parts: Any) -> Callable[..., RunFolder]:
    """``carry_out(where, *overrides)`` trains a small convnet: 2 epochs of 3 steps."""

    def carry_out(where: str, *overrides: str) -> RunFolder:
        options = ["tracker=none", "model=convnet", "model.width=4", "optimizer=sgd"]
        options += ["optimizer._target_=bench_test_parts.Moody", "trainer.batch_size=400"]
        options += ["trainer.epochs=2", "trainer.log_every=1", "trainer.progress=none"]
        options += ["trainer.device=cpu", "trainer.threads=1", "trainer.accounting=false"]
        places = [f"runs_dir={tmp_path / where}", f"data_dir={tmp_path / 'data'}"]
        run = config.load([*options, *places, *overrides])
        train.train(run)
        return RunFolder(Path(run.runs_dir) / identify(run).id)

    return carry_out


def test_a_compiled_run_is_the_eager_one_and_goes_on_after_an_interruption(
    carry_out: Callable[..., RunFolder],
    parts: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    assert_same: Callable[..., None],
) -> None:
    monkeypatch.setattr("bench.setup._CHOSEN_CACHE", None)
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "")  # put back what the run sets
    eager = carry_out("eager")
    whole = carry_out("whole", "trainer.compile=true")
    assert any((tmp_path / "data" / "compile_cache").iterdir())
    assert whole.path.name == eager.path.name  # how, not what
    losses = [row["train/loss"] for row in eager.history()]
    assert [row["train/loss"] for row in whole.history()] == pytest.approx(losses, rel=1e-3)
    for name in ("val/loss", "test/loss"):
        assert whole.summary[name] == pytest.approx(eager.summary[name], rel=1e-2)
    seconds = whole.summary["clock/compile_seconds"]
    assert seconds > 3 * whole.summary["clock/step_seconds"] > 0
    assert eager.summary["clock/compile_seconds"] == 0

    parts.Moody.steps, parts.Moody.at, parts.Moody.error = 0, 5, KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        carry_out("stopped", "trainer.compile=true")
    parts.Moody.at = None
    rest = carry_out("stopped", "trainer.compile=true")
    assert_same(rest.load_checkpoint(), whole.load_checkpoint())
    assert rest.history() == whole.history()
    # Begun twice, each time from the cache that the first run filled.
    assert 0 < rest.summary["clock/compile_seconds"] < seconds
