"""``spectral-bench results``: the page and its figures, and the check that they are current."""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import study_runs
from measured_tables import directions, write_run

from analysis import archive, results
from bench.errors import UserError

ACCURACIES = {
    "adamw": [0.901, 0.903, 0.902, 0.905, 0.900, 0.904, 0.899, 0.902],
    "muon": [0.921, 0.922, 0.925, 0.926, 0.919, 0.923, 0.920, 0.924],
    "spectral_newton": [0.93, 0.931, 0.934, 0.936, 0.928, 0.935, 0.929, 0.932],
}
GRID = (
    "hydra: {sweeper: {params: {optimizer: 'adamw,muon,spectral_newton',"
    " seed: '0,1,2,3,4,5,6,7'}}}\n"
)
SWEEP = (
    "# @package _global_\nstudy:\n  question: Is it better?\n  part_of: a | b\n"
    "  cost: {seconds: 36000, device: a clock, measured: false}\n"
)
README = "# A\n\n<!-- front: made by spectral-bench results -->\nold\n<!-- /front -->\n\nB\n"


@pytest.fixture
def work(runs: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout with one study that has run and one that has not."""
    monkeypatch.chdir(tmp_path)
    Path("sweeps").mkdir()
    for name in ("study_x", "study_z"):
        Path("sweeps", f"{name}.yaml").write_text(SWEEP)
    Path("README.md").write_text(README)
    study_runs.study(runs, Path("runs"), ACCURACIES)
    archive.main(["out=results/study_x.parquet"])
    return tmp_path


def made(*words: str) -> dict[str, str]:
    assert results.main(["sweeps=sweeps", *words]) == 0
    return {str(p): p.read_text() for p in [*Path("docs").rglob("*.*"), Path("README.md")]}


def test_the_page_its_figures_and_the_readme(work: Path) -> None:
    files = made()
    stem = "docs/figures/study_x-convnet-digits"
    assert set(files) == {
        "README.md", "docs/RESULTS.md", "docs/figures/front.svg", f"{stem}-seconds.svg",
        f"{stem}-epoch.svg", f"{stem}-sensitivity.svg", f"{stem}-best-of-k.svg",
        "docs/figures/across.svg",
    }  # fmt: skip
    page, same = files["docs/RESULTS.md"], "schedule cosine; model convnet; dataset digits"
    for line in (
        "| [study_x](#study_x) | Is it better? |"
        " `spectral_newton` is better than `adamw` and `muon`<br>"
        "others against `adamw`: better `muon` | 24 done, 6 of tuning |",
        "| [study_z](#not-run-yet) | Is it better? | – | not run yet |",
        "## study_x",
        f"- report runs: 24 runs; seeds 0-7; epochs 20; {same}",
        f"- tuning runs: 6 runs; seeds 1000; epochs 4; {same}",
        "- report and tuning seeds are disjoint (asserted)",
        "- device: Accelerator 9000 (30 runs)",
        "- runs at once on a device, as the launch that made them knew: 1 (30 runs)",
        "- torch: 2.11.0 (30 runs)",
        "- commit: 012345678901 (30 runs)",
        "### convnet / digits",
        "![convnet / digits: test/accuracy against seconds of training]"
        "(figures/study_x-convnet-digits-seconds.svg)",
        "| adamw | 0.001 to 0.01 (x10) | 0.01 | 0.01 | 0 |",
        "| adamw | lr=0.01 | 60.00 | 100 % | lr -10.00, none | high lr |",
        "### study_z",
        "spectral-bench train -m +sweeps=study_z",
    ):
        assert line in page.splitlines(), line
    assert page.startswith("# Results\n\n| study | question | answer | runs |\n")
    assert page.count("<details>") == page.count("</details>") > 0
    assert page.index("## study_x") < page.index("## Not run yet") < page.index("### study_z")
    verdict = "`spectral_newton` ends at test/accuracy 93.19 ["
    assert verdict in page
    readme = files["README.md"]
    assert "against `adamw` by test/accuracy better at 20 epochs (+2.99)" in readme
    assert "old" not in readme
    assert readme.startswith("# A\n\n<!-- front")
    assert readme.endswith("<!-- /front -->\n\nB\n")
    assert "](docs/figures/front.svg)" in readme


def test_the_table_of_sweeps_says_what_each_asks_costs_and_has(work: Path) -> None:
    Path("docs").mkdir()
    mark = "<!-- sweeps: made by spectral-bench results -->"
    Path("docs/sweeps.md").write_text(f"# S\n{mark}\nold\n<!-- /sweeps -->\nmore\n")
    Path("sweeps/other.yaml").write_text("# Without a study.\n")
    for grid, state in ((GRID, "complete, 24"), (GRID.replace("6,7", "6,7,8"), "partial, 24")):
        Path("sweeps/study_x.yaml").write_text(SWEEP + grid)
        before, first, *rows = made()["docs/sweeps.md"].splitlines()
        cells = r"Is it better? | a \| b | {} | 10.0 h on a clock, estimated | {} |"
        assert (before, first, rows[-2:]) == ("# S", mark, ["<!-- /sweeps -->", "more"])
        count = 24 if state.startswith("complete") else 27
        assert rows[2:-2] == [
            "| [other](../sweeps/other.yaml) |  |  | 0 |  | no |",
            f"| [study_x](../sweeps/study_x.yaml) | {cells.format(count, state + ' runs')}",
            f"| [study_z](../sweeps/study_z.yaml) | {cells.format(0, 'no')}",
        ]
    assert results.main(["sweeps=sweeps", "--check"]) == 0
    Path("docs/sweeps.md").write_text(f"{mark}\n<!-- /sweeps -->\n")
    assert results.main(["sweeps=sweeps", "--check"]) == 1


def test_what_a_study_asks_besides_and_how_often_it_was_looked_at(work: Path) -> None:
    plain = made()["docs/RESULTS.md"]
    asked = "  looks: 3\n  contrasts: [[spectral_newton, muon], [muon, lion]]\n"
    Path("sweeps/study_x.yaml").write_text(SWEEP + asked)
    page = made()["docs/RESULTS.md"]
    assert "interim" not in plain and "### Asked besides" not in plain
    # Each of the three pairs once, though two baselines and a contrast show some twice.
    assert page.count("over 3 comparisons of this section, times 3 interim analyses (") == 1
    assert "| `spectral_newton` against `muon` | +0.94 [" in page
    assert "- `muon` and `lion` are not compared: lion has no run." in page
    (answer,) = [line for line in page.splitlines() if line.startswith("| [study_x]")]
    assert "`spectral_newton` is better than `muon`" in answer


def test_the_same_archives_give_the_same_bytes(work: Path) -> None:
    first = made()
    shutil.rmtree("docs")
    archive.main(["unpack", "results", "into=again"])
    Path("results/study_x.parquet").unlink()
    archive.main(["source=again", "out=results/study_x.parquet"])
    assert made() == first


def test_check_tells_what_no_longer_matches(
    work: Path, runs: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert results.main(["sweeps=sweeps", "--check"]) == 1
    assert "docs/RESULTS.md: does not match the archives" in capsys.readouterr().err
    assert not Path("docs").exists()
    made()
    capsys.readouterr()
    assert results.main(["sweeps=sweeps", "--check"]) == 0
    assert capsys.readouterr().out == "8 files match the archives\n"
    page = Path("docs/RESULTS.md").read_text()
    for path, edit in [
        ("docs/RESULTS.md", page.replace("93.19", "95.19", 1)),
        ("docs/figures/front.svg", "<svg/>"),
        ("README.md", README),
    ]:
        before = Path(path).read_text()
        Path(path).write_text(edit)
        assert results.main(["sweeps=sweeps", "check=true"]) == 1
        told = capsys.readouterr().err
        assert told.startswith(f"{path}: does not match")
        assert Path(path).read_text() == edit
        Path(path).write_text(before)
    Path("docs/RESULTS.md").write_text(page.replace("93.19", "95.19", 1))
    results.main(["sweeps=sweeps", "--check"])
    told = capsys.readouterr().err
    assert "  -" in told
    assert "95.19" in told
    assert "93.19" in told
    assert len(told.splitlines()) <= 14


def test_another_run_changes_the_page(work: Path, runs: Any) -> None:
    made()
    study_runs.write(runs, Path("more"), runs.config("lion", 0, sweep="study_x"), 0.5)
    archive.main(["source=more", "out=results/study_x.parquet"])
    assert results.main(["sweeps=sweeps", "--check"]) == 1
    assert "| lion | 50.00 (1/8, partial) | 0 🔴 |" in made()["docs/RESULTS.md"]


def test_without_any_run_or_study(work: Path) -> None:
    Path("results/study_x.parquet").unlink()
    files = made()
    assert set(files) == {"docs/RESULTS.md", "README.md"}
    assert "No verdict yet.\n\n[All results](docs/RESULTS.md)" in files["README.md"]
    assert files["docs/RESULTS.md"].count("not run yet |") == 2
    shutil.rmtree("sweeps")
    Path("sweeps").mkdir()
    assert "No study yet" in made()["docs/RESULTS.md"]
    Path("README.md").write_text("# plain\n")
    assert made()["README.md"] == "# plain\n"
    Path("README.md").unlink()
    assert results.main(["sweeps=sweeps"]) == 0


def test_only_tuned_so_far(work: Path, runs: Any) -> None:
    Path("results/study_x.parquet").unlink()
    archive.main(["sweeps=study_x_tune", "out=results/study_x.parquet"])
    page = made()["docs/RESULTS.md"]
    assert "No report runs yet, only tuning." in page
    assert "### Learning rates" in page
    assert "| study_x](" not in page


def test_exponents_are_judged_by_the_claims(work: Path) -> None:
    folder = write_run(
        Path("curved"), "a", [directions({f"layer{k}": 1.5 for k in range(25)})],
        dataset="fashion_mnist",
    )  # fmt: skip
    config = json.loads((folder / "config.json").read_text())
    config |= {"sweep": "study_e", "variant": "v"}
    (folder / "config.json").write_text(json.dumps(config))
    archive.main(["source=curved", "out=results/study_e.parquet"])
    page = made()["docs/RESULTS.md"]
    section = page[page.index("## study_e") : page.index("## study_x")]
    assert "### Exponents" in section
    assert "| resnet18 | fashion_mnist | adamw | 5 | 1 | 25 (25) | 1." in section
    assert "| claim | stated | ours | verdict |" in section
    assert "null: noise" in section
    verdicts = Counter(re.findall(r"\*\*(holds|fails)\*\*( \?)? \|$", section, re.MULTILINE))
    undecided = sum(count for (_, mark), count in verdicts.items() if mark)
    answer = re.search(r"of (\d+) of the preprint's claims, tested on this data instead of theirs, "
                       r"(?:(\d+) hold)?(?:, )?(?:(\d+) fail)?"
                       r"(?:, )?(?:(\d+) are undecided)? \|", page)  # fmt: skip
    assert answer is not None
    expected = (sum(verdicts.values()), verdicts["holds", ""], verdicts["fails", ""], undecided)
    assert tuple(int(count or 0) for count in answer.groups()) == expected
    told = re.search(r"(\d+) of (\d+) claims ask for", section)
    assert told is not None
    rows = sum(line.startswith("| `") for line in section.splitlines())
    assert rows == int(told[2]) - int(told[1]) > 0
    assert "not measured |" not in section
    assert "### Exponents" not in page[page.index("## study_x") :]


def test_the_front_is_of_every_study_that_compares_the_subject(work: Path, runs: Any) -> None:
    first = made()
    study_runs.study(runs, Path("alone"), {"spectral_newton": [0.1, 0.2]}, name="study_w")
    archive.main(["source=alone", "out=results/study_w.parquet"])  # by name before study_x
    both = made()
    assert "docs/figures/study_w-convnet-digits-seconds.svg" in both
    for name in ("README.md", "docs/figures/front.svg"):
        assert both[name] == first[name]
    study_runs.study(runs, Path("more"), ACCURACIES, name="study_y", rates=())
    archive.main(["source=more", "out=results/study_y.parquet"])
    assert "**study_y, convnet / digits**" in made()["README.md"]


def test_fresh_seeds_are_a_line_of_their_own_and_in_no_table(work: Path, runs: Any) -> None:
    before = made()
    for optimizer, values in ACCURACIES.items():
        for seed, value in enumerate(values):
            config = runs.config(optimizer, 20 + seed, sweep="study_x", optimizer__lr=1e-2)
            study_runs.write(runs, Path("fresh"), config, value - 0.02 * (optimizer != "adamw"))
    archive.main(["source=fresh", "out=results/fresh_seeds/study_x.parquet"])
    after = made()
    assert after["docs/RESULTS.md"] == before["docs/RESULTS.md"]
    readme = after["README.md"]
    assert "- The same, fresh seeds (20 epochs, seeds 20-27): against `adamw`" in readme
    assert "better at 20 epochs (+0.99)" in readme
    archive.main(["source=runs", "out=results/fresh_seeds/study_x.parquet"])
    with pytest.raises(UserError, match=r"seed 0 is in results/study_x\.parquet too"):
        results.main(["sweeps=sweeps"])


def test_the_section_across_tasks_is_before_the_studies(work: Path) -> None:
    page = made()["docs/RESULTS.md"]
    assert page.index("| [study_x](#study_x)") < page.index("## Across tasks")
    assert page.index("## Across tasks") < page.index("## study_x")
    assert "| spectral_newton | 1.00 | 3 | [1.00, 1.00] | – | 1 of 1 | 1 |" in page
    assert "](figures/across.svg)" in page


def test_settings_of_another_studys_tuning(work: Path, runs: Any) -> None:
    study_runs.study(runs, Path("long"), {"adamw": [0.9, 0.91]}, name="study_y", rates=())
    archive.main(["source=long", "out=results/study_y.parquet"])
    page = made()["docs/RESULTS.md"]
    section = page[page.index("## study_y") : page.index("## Not run yet")]
    assert (
        "Settings are those that the tuning runs of study_x chose, of 4 epochs and seeds 1000;"
        " the report's seeds are disjoint from those (asserted).\n"
    ) in section
    assert "report and tuning seeds" not in section  # it has no tuning of its own
    assert "budgets are equal: 2 trials (2 runs, 8 epochs) each" in section
    assert "Settings are carried over from other runs than those reported:" in section
    assert " trainer.epochs 4 in trials, 20 here.\n" in section
    assert "### Learning rates" not in section
    assert "🔴" not in section


def test_runs_of_code_that_was_not_committed_are_marked(work: Path, runs: Any) -> None:
    config = runs.config("adamw", 8, sweep="study_x", optimizer__lr=1e-2, tuned=True)
    folder = study_runs.write(runs, Path("more"), config, 0.9)
    told = json.loads((folder / "provenance.json").read_text())
    told["attempts"][0]["git"]["dirty"] = True
    (folder / "provenance.json").write_text(json.dumps(told))
    archive.main(["source=more", "out=results/study_x.parquet"])
    page = made()["docs/RESULTS.md"]
    assert "- uncommitted changes: False (30 runs), True (1 runs) 🔴\n" in page


def test_runs_that_prepared_others_are_in_no_table(work: Path, runs: Any) -> None:
    study_runs.write(runs, Path("more"), runs.config("adamw", 1999, sweep="study_x_exponents"), 0.1)
    archive.main(["source=more", "out=results/study_x.parquet"])
    page = made()["docs/RESULTS.md"]
    assert (
        "- 1 run of seed 1999 measured the exponents that some optimizers are given: in no table,"
        " and besides the tuning budget\n"
    ) in page
    assert "24 done, 6 of tuning" in page


def test_the_committed_page_matches_the_committed_archives(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(Path(results.__file__).parents[1])
    code = results.main(["--check"])
    assert code == 0, f"run `spectral-bench results`: {capsys.readouterr().err}"


def test_mistakes_are_one_line(work: Path, runs: Any) -> None:
    bad = runs.config("adamw", 1, sweep="study_x_tune", optimizer__lr=0.5)
    study_runs.write(runs, Path("more"), bad, 0.4)
    Path("file").write_text("x")
    for argv, message in [
        (["sweeps=nowhere"], "sweeps=nowhere: no such folder"),
        (["sweeps=sweeps", "out=file/x.md"], "name another file"),
        (["-check"], "options are written key=value"),
    ]:
        with pytest.raises(UserError) as caught:
            results.main(argv)
        assert message in str(caught.value)
        assert "\n" not in str(caught.value)
    archive.main(["source=more", "out=results/study_x.parquet"])
    with pytest.raises(UserError, match="seed 1 is among the tuning runs"):
        results.main(["sweeps=sweeps"])
