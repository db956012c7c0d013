"""Every file of sweeps/: whole as a grid, and told by a plan on any machine."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench import files, sweep
from bench.launch.grid import Composer, Job, combinations, master_config
from bench.tuning.spec import study_in

FILES = sorted((files.home() / "sweeps").glob("*.yaml"))
NAMES = [file.stem for file in FILES]


@pytest.mark.parametrize("file", FILES, ids=NAMES)
def test_a_sweep_is_a_grid_of_runs(loader: Any, file: Path, exponents: Callable[..., Path]) -> None:
    master = master_config(loader, [f"+sweeps={file.stem}", f"exponents={exponents()}"])
    composer = Composer(loader, master, elsewhere=True)
    made = [composer.job(one) for one in combinations(master)]
    runs = [one for one in made if isinstance(one, Job)]
    assert len(runs) == len(made), [one for one in made if not isinstance(one, Job)]
    assert len({run.identity.id for run in runs}) == len(runs) >= 2
    assert {run.config.sweep for run in runs} <= {file.stem, file.stem.rpartition("_")[0]}


@pytest.mark.parametrize("file", FILES, ids=NAMES)
def test_a_sweep_says_what_it_is_for_how_it_is_run_and_what_it_costs(
    file: Path,
) -> None:
    study = study_in(file)
    assert study.question is not None
    assert study.question.endswith("?")
    assert study.part_of is not None
    assert study.cost is not None
    header = re.findall(r"^#.*", file.read_text(), re.MULTILINE)
    assert f"+sweeps={file.stem}" in " ".join(header)
    assert len(header) <= 8


@pytest.mark.parametrize("name", NAMES)
def test_a_plan_needs_neither_device_nor_data_nor_exponents_nor_extras(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    monkeypatch.setitem(sys.modules, "pytorch_optimizer", None)  # as where it is not installed
    sweep.main(["plan", f"+sweeps={name}"])
    question, grid, counts, *rest = capsys.readouterr().out.splitlines()
    assert question.endswith("?")
    whole = re.match(r"grid of (\d+): .*seed=", grid)
    planned = re.match(r"(\d+) planned: \1 missing", counts)
    assert whole is not None
    assert planned is not None
    # What no machine could build would be an invalid line.
    refused = [line for line in rest if line.startswith("would be refused here: ")]
    assert len({line.rpartition(" (")[0] for line in refused}) == len(refused)  # one line a cause
    lacking = [int(line.split("(")[-1].split()[0]) for line in refused if "`baselines`" in line]
    assert int(whole[1]) == int(planned[1]) + sum(lacking)
    assert rest[len(refused)].startswith(f"to do: {planned[1]}, no estimate")
    assert rest[-1].startswith(f"the whole of sweeps/{name}.yaml: ")
    assert list(tmp_path.iterdir()) == []
