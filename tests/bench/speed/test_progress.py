"""The lines before a benchmark's table."""

from __future__ import annotations

import re

import pytest

from bench.speed.progress import say


def test_a_line_goes_to_standard_error_with_the_seconds_so_far(
    capsys: pytest.CaptureFixture[str],
) -> None:
    say("muon: ready")
    out, err = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(r"\[ *\d+ s\] muon: ready\n", err)
