"""Every file of sweeps/: whole as a grid, with a header that says what it is for."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench import components, files
from bench.launch.grid import Composer, Job, combinations, master_config

FILES = sorted((files.home() / "sweeps").glob("*.yaml"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_sweep_is_a_grid_of_runs_that_can_be_built(
    loader: Any, file: Path, exponents: Callable[..., Path]
) -> None:
    words = [f"+sweeps={file.stem}", f"exponents={exponents()}"]
    master = master_config(loader, words)
    composer = Composer(loader, master, elsewhere=True)
    made = [composer.job(one) for one in combinations(master)]
    runs = [one for one in made if isinstance(one, Job)]
    assert len(runs) == len(made), [one for one in made if not isinstance(one, Job)]
    assert len({run.identity.id for run in runs}) == len(runs) >= 2
    assert {run.config.sweep for run in runs} <= {file.stem, file.stem.rpartition("_")[0]}
    header = [line for line in file.read_text().splitlines() if line.startswith("#")]
    text = " ".join(header)
    assert "?" in text or ":" in text
    assert f"bench.train -m +sweeps={file.stem}" in text
    counted = re.search(r"Cost: (\d+) runs", text)
    assert counted is not None
    assert int(counted[1]) == len(runs)
    cost = text[counted.start() :].lower()  # and where from
    assert re.search(r"measured|\babout\b", cost)
    # The first run of each optimizer: model, optimizer and schedule can be built, without memory.
    tried = set()
    for run in runs:
        optimizer = run.config.names["optimizer"]
        if optimizer in tried or "exponents" in run.config.optimizer:
            continue
        tried.add(optimizer)
        components.try_out(run.config.components, run.config.names)
