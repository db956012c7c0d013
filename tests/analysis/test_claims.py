from __future__ import annotations

import json
from pathlib import Path

import pytest
from measured_tables import directions, write_run

from analysis.claims import main
from bench.errors import UserError

LAYERS = [f"l{i}" for i in range(12)] + ["fc"]


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    for seed in range(2):
        tables = [directions(dict.fromkeys(LAYERS, 2.0), seed=seed, epoch=e) for e in (0.0, 5.0)]
        write_run(tmp_path / "runs", f"run{seed}", tables, seed=seed)
    return tmp_path / "runs"


def test_text_tells_each_claim_with_its_runs(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main([f"source={runs}"])
    text = capsys.readouterr().out
    assert "alpha-conv-mean: HOLDS\n" in text and "alpha-at-init: FAILS\n" in text
    assert "chi-slope: NOT MEASURED" in text and "no column 'chi_slope'" in text
    block = text.split("triangle-error-all: ")[1].split("\n\n")[0]
    assert "26 layers of 2 runs on resnet18/cifar10" in block
    assert "null    noise" in block and "permuted" in block and "other" in block
    assert "runs    run0, run1" in block
    main([f"source={runs}"])
    assert capsys.readouterr().out == text


def test_json_holds_what_text_shows_and_numbers_to_count_with(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main([f"source={runs}", "format=json", "only=alpha-rises,chi-slope,alpha-conv-mean"])
    found = {claim["id"]: claim for claim in json.loads(capsys.readouterr().out)}
    assert [*found] == ["alpha-conv-mean", "alpha-rises", "chi-slope"]
    mean, rises = found["alpha-conv-mean"], found["alpha-rises"]
    assert mean["verdict"] == "holds" and mean["accepted"] == [1.97, 2.17]
    assert mean["value"] == mean["of"]["ours"]["value"] == pytest.approx(2, abs=0.03)
    assert rises["verdict"] == "fails" and set(rises["of"]) == {"ours", "versus"}
    assert rises["accepted"] == [0.25, None]
    assert found["chi-slope"]["value"] is None and found["chi-slope"]["decided"] is None


def test_markdown_is_written_to_a_file(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "claims.md"
    main([f"source={runs}", "format=markdown", f"out={out}"])
    text = out.read_text()
    assert capsys.readouterr().out.startswith(f"{out}: 70 claims: ")
    assert "| `alpha-conv-mean` " in text and "- `alpha-conv-mean`: run0, run1" in text
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len(rows) == 72 and {line.replace(r"\|", "").count("|") for line in rows} == {5}


def test_mistakes_are_one_line(runs: Path, tmp_path: Path) -> None:
    for arguments, told in [
        (["source=nowhere"], "nowhere: no such file or folder"),
        ([f"source={runs}", "only=alpha-conv"], "only=alpha-conv: no such claim"),
        ([f"source={runs}", f"claims={tmp_path / 'none'}"], "none: No such file"),
        ([f"source={runs}", f"out={runs}"], "name another file"),
    ]:
        with pytest.raises(UserError, match=told) as caught:
            main(arguments)
        assert "\n" not in str(caught.value)
