"""The command line of bench.sweep."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import sweep
from bench.errors import UserError

QUICK = ["model=mlp", "model.hidden=[8]", "tracker=none", "trainer.epochs=1"]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_plan_shows_everything_and_starts_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UserError, match="4 combinations cannot run"):
        sweep.main(["plan", *QUICK, "seed=0,0,1,-1", "trainer.batch_size=64,5000"])
    out = capsys.readouterr().out.splitlines()
    assert out[0] == "4 planned: 4 missing"
    assert sum(line.startswith("invalid: ") and "seed=-1" in line for line in out) == 2
    assert sum(line.startswith("invalid: ") and "does not fit" in line for line in out) == 2
    assert sum(line.startswith("duplicate: ") and "2 times" in line for line in out) == 2
    assert list(tmp_path.iterdir()) == []


def test_help_and_unknown_commands(capsys: pytest.CaptureFixture[str]) -> None:
    sweep.main([])
    assert "bench.sweep plan" in capsys.readouterr().out
    with pytest.raises(UserError, match="plna: there is no such command; did you mean plan"):
        sweep.main(["plna"])
