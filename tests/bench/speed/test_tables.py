from __future__ import annotations

import re
from collections import Counter

import pytest

from bench.speed import tables


def test_made_up_runs_are_all_different() -> None:
    runs = list(tables.made_up(400))
    assert len({told.id for told in runs}) == 400
    variants = Counter(told.config["variant"] for told in runs)
    assert set(variants.values()) == {5}


@pytest.mark.slow
def test_every_source_is_timed(capsys: pytest.CaptureFixture[str]) -> None:
    tables.main(["runs=200"])
    lines = capsys.readouterr().out.splitlines()
    pattern = r"200 runs, (.*): \d+\.\d s \(\d+\.\d s of CPU\), \d+ MiB"
    found = [re.fullmatch(pattern, line) for line in lines]
    assert [match[1] for match in found if match] == [
        "local cache of a W&B project",
        "local cache of a W&B project, again",
        "cold folder of run summaries",
        "folder of run summaries, again",
    ]
