from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import study_runs

from analysis.judge.section import Missing, Plan
from analysis.judge.verdicts import Rules, judge
from analysis.page.budget import budgets
from analysis.page.study import Header, Output, Study
from analysis.page.table import Results, results
from analysis.page.verdict import section, sentences, short
from analysis.run import archive

ADAMW = [0.901, 0.903, 0.902, 0.905, 0.900, 0.904, 0.899, 0.902]
MUON = [0.921, 0.922, 0.925, 0.926, 0.919, 0.923, 0.920, 0.924]
NOISY = [0.910, 0.930, 0.921, 0.914, 0.937, 0.918, 0.925, 0.924]


def found_in(root: Path, first: str | None = None) -> tuple[Results, Study]:
    archive.write(root.with_suffix(".parquet"), archive.gather(root))
    study = Study("study_x", Header("", ()), root.with_suffix(".parquet"))
    (found,) = results(study.runs, budgets(study.tuning), first)
    return found, study


def said(root: Path, first: str | None = None) -> str:
    return sentences(*found_in(root, first))


def said_shortly(root: Path, first: str | None = None) -> list[str]:
    return short(found_in(root, first)[0])


def test_the_verdict_says_what_the_table_says(runs: Any, tmp_path: Path) -> None:
    accuracies = {"adamw": ADAMW, "muon": MUON, "spectral_newton": NOISY, "sgd": ADAMW[::-1]}
    root = study_runs.study(runs, tmp_path / "runs", accuracies)
    text = said(root)
    start = (
        "On convnet / digits (20 epochs, 8 seeds, 2 tuning trials each, Accelerator 9000),"
        " `spectral_newton` ends at test/accuracy 92.24 ["
    )
    assert text.startswith(start)
    assert "] %: better than `adamw` (+2.04 [" in text
    assert "; undecided against `muon` (-0.01 [" in text
    assert text.count("points, corrected p ") == 2
    assert "An epoch takes 1.00 times as long as with `adamw`." in text
    assert text.endswith("Others against `adamw`: better `muon`; undecided `sgd`.")
    assert said_shortly(root) == [
        "`spectral_newton` is better than `adamw`; undecided against `muon`",
        "others against `adamw`: better `muon`; undecided `sgd`",
    ]


def test_without_the_subject_rows_are_told_by_their_verdicts(runs: Any, tmp_path: Path) -> None:
    alike = [ADAMW[-k:] + ADAMW[:-k] for k in range(1, 5)]
    accuracies = {"adam": ADAMW, "nadam": MUON, "sgd": [a - 0.05 for a in MUON], "lion": alike[0]}
    root = study_runs.study(runs, tmp_path / "runs", accuracies)
    told = "against `adam`: better `nadam`; worse `sgd`; undecided `lion`"
    assert said_shortly(root, "adam") == [told]
    assert said(root, "adam") == (
        f"On convnet / digits (20 epochs, 8 seeds, 2 tuning trials each, Accelerator 9000), {told}."
    )
    assert said_shortly(root) == [] and said(root) == ""  # with nothing to compare with
    more = dict(zip(("soap", "shampoo", "kfac"), alike[1:], strict=True))
    study_runs.study(runs, root, more)
    assert said_shortly(root, "adam") == [
        "against `adam`: better `nadam`; worse `sgd`; undecided the 4 others"
    ]
    few = study_runs.study(runs, tmp_path / "few", {"adam": ADAMW, "lion": alike[0], **more})
    assert said_shortly(few, "adam") == ["against `adam`: undecided all 4"]


@pytest.mark.parametrize(("shift", "word"), [(0.05, "better"), (-0.05, "worse")])
def test_better_and_worse_follow_the_numbers(
    runs: Any, tmp_path: Path, shift: float, word: str
) -> None:
    newton = [value + shift for value in ADAMW[1:] + ADAMW[:1]]
    text = said(
        study_runs.study(runs, tmp_path / "runs", {"adamw": ADAMW, "spectral_newton": newton})
    )
    assert f"{word} than `adamw`" in text
    assert "muon" not in text
    assert "Others" not in text


def test_what_is_unfair_or_unfinished_is_said(runs: Any, tmp_path: Path) -> None:
    root = study_runs.study(runs, tmp_path / "runs", {"adamw": ADAMW})
    config = runs.config("spectral_newton", 0, sweep="study_x")
    study_runs.write(runs, root, config, 0.95, device="Another")
    text = said(root)
    assert "1 seed of 8, unequal tuning, Another" in text
    assert "not tested against `adamw` (+4.90 (1 pair) points)" in text
    assert "An epoch" not in text


def test_a_slower_epoch_is_more_times_as_long(runs: Any, tmp_path: Path) -> None:
    root = study_runs.study(runs, tmp_path / "runs", {"adamw": ADAMW}, seconds=2.0)
    study_runs.study(runs, root, {"spectral_newton": MUON}, seconds=3.0)
    assert "An epoch takes 1.50 times as long as with `adamw`." in said(root)


def test_a_map_of_settings_has_no_verdict(runs: Any, tmp_path: Path) -> None:
    root = study_runs.study(runs, tmp_path / "runs", {"adamw": ADAMW, "spectral_newton": MUON})
    assert "`spectral_newton`" in said(root)
    config = runs.config("spectral_newton", 0, sweep="study_x", optimizer__lr=0.7)
    study_runs.write(runs, root, config, 0.95)
    assert said(root) == "" and said_shortly(root) == []


def test_no_subject_no_verdict(runs: Any, tmp_path: Path) -> None:
    only = study_runs.study(runs, tmp_path / "runs", {"adamw": ADAMW})
    assert said(only) == "" and said_shortly(only) == []
    alone = study_runs.study(runs, tmp_path / "alone", {"spectral_newton": ADAMW}, rates=())
    assert said(alone).endswith("ends at test/accuracy 90.20 [90.03, 90.37] %.")
    assert "untuned" in said(alone)


def test_a_loss_is_in_nats_and_lower_is_better(runs: Any, tmp_path: Path) -> None:
    root = tmp_path / "runs"
    for name, shift in (("adamw", 0.3), ("muon", 0.2), ("spectral_newton", 0.0)):
        for seed, loss in enumerate([3.0, 3.1, 3.05, 3.2, 3.15, 3.07, 3.12, 3.02]):
            config = runs.config(name, seed, sweep="study_x")
            noise = 0.001 * ((seed * len(name)) % 3)
            more = {"tokens_per_second": 5.0, "test/loss": loss + shift + noise}
            study_runs.write(runs, root, config, 0.5, **more)
    text = said(root)
    assert "ends at test/loss 3.0888 [" in text
    assert "] nats (lower is better): better than `adamw` (-0.3" in text
    assert text.count(" nats, corrected p") == 2
    assert text.endswith("Others against `adamw`: better `muon`.")


ACCURACIES = {
    "a": [0.930, 0.931, 0.934, 0.936, 0.928, 0.935, 0.929, 0.932],
    "b": ADAMW,
    "c": [0.929, 0.933, 0.933, 0.937, 0.927, 0.936, 0.928, 0.933],
    "d": [0.5],
}
PAIRS = (("a", "b"), ("a", "c"), ("b", "a"), ("a", "d"), ("a", "absent"))


def asked(root: Path, plan: Plan) -> list[Results]:
    archive.write(root.with_suffix(".parquet"), archive.gather(root))
    runs = Study("study_x", Header("", ()), root.with_suffix(".parquet")).runs
    return results(runs, {}, judging=lambda _: plan)


@pytest.mark.parametrize("looks", [1, 2])
def test_pairs_are_compared_by_seed_and_judged_together(
    runs: Any, tmp_path: Path, looks: int
) -> None:
    plan = Plan(looks=looks, contrasts=PAIRS)
    (found,) = asked(study_runs.study(runs, tmp_path / "runs", ACCURACIES), plan)
    assert found.table.section is not None
    contrasts = found.table.section.contrasts
    assert [(pair.method, pair.other) for pair in contrasts] == list(PAIRS[:4])
    assert found.table.section.missing == (Missing("a", "absent", "absent", several=False),)
    by_hand = [
        {k: a - b for k, (a, b) in enumerate(zip(ACCURACIES[one], ACCURACIES[other], strict=False))}
        for one, other in PAIRS[:4]
    ]
    expected = judge(by_hand, Rules(looks=looks))
    for one, other in zip(contrasts.values(), expected, strict=True):
        assert (one.n, one.verdict) == (other.n, other.verdict)
        assert one.difference == pytest.approx(other.difference)
        assert one.adjusted_p == pytest.approx(other.adjusted_p, nan_ok=True)
    assert [one.verdict for one in contrasts.values()] == [
        "better", "undecided", "worse", "undecided",
    ]  # fmt: skip


def test_the_section_and_the_answers_in_short(runs: Any, tmp_path: Path) -> None:
    out = Output("figures")
    root = study_runs.study(runs, tmp_path / "runs", ACCURACIES)
    found = asked(root, Plan(looks=3, contrasts=PAIRS))
    text = section(found, out)
    assert "| `a` against `b` | +2.99 [" in text
    assert "| 8 | **better** | p = 0.023 | – |" in text  # 3 x 2/2^8
    assert "| `a` against `d` | +43.00 (1 pair) | 1 | not tested | – | – |" in text
    assert "- `a` and `absent` are not compared: absent has no run." in text
    assert "- test/accuracy, in points; judged in one family with the comparisons above." in text
    (note,) = [note for note in found[0].notes if "max-T" in note]
    assert "over 2 comparisons of this section, times 3 interim analyses (" in note
    assert out.answers == [
        "`a` is better than `b`; undecided against `c`", "`b` is worse than `a`",
    ]  # fmt: skip


def test_nothing_asked_nothing_said(runs: Any, tmp_path: Path) -> None:
    out, root = Output("figures"), study_runs.study(runs, tmp_path / "runs", ACCURACIES)
    assert section(asked(root, Plan()), out) == ""
    text = section(asked(root, Plan(contrasts=(("a", "absent"),))), out)
    assert text == "### Asked besides\n\n- `a` and `absent` are not compared: absent has no run.\n"
    assert out.answers == []


def test_a_seed_that_diverged_flatters_nobody(runs: Any, tmp_path: Path) -> None:
    root = study_runs.study(runs, tmp_path / "runs", {"b": ACCURACIES["b"]})
    for seed, accuracy in enumerate(ACCURACIES["a"]):
        state = "diverged" if seed == 4 else "done"
        config = runs.config("a", seed, sweep="study_x")
        study_runs.write(runs, root, config, accuracy, state=state)
    (found,) = asked(root, Plan(contrasts=(("a", "b"),)))
    assert found.table.section is not None
    (one,) = found.table.section.contrasts.values()
    assert (one.n, one.verdict) == (7, "undecided")
    assert one.adjusted_p < 0.05


def test_an_optimizer_of_several_settings_is_no_row(runs: Any, tmp_path: Path) -> None:
    root = study_runs.study(runs, tmp_path / "runs", {"a": [0.9, 0.91], "b": [0.8, 0.82]})
    other = runs.config("a", 2, sweep="study_x", optimizer__lr=0.5)
    study_runs.write(runs, root, other, 0.9)
    found = asked(root, Plan(contrasts=(("a", "b"),)))
    assert found[0].table.section is not None
    assert found[0].table.section.contrasts == {}
    assert found[0].table.section.missing == (Missing("a", "b", "a", several=True),)
    text = section(found, Output("figures"))
    assert "- `a` and `b` are not compared: a has several settings.\n" in text


def test_places_are_told_apart_and_judged_together(runs: Any, tmp_path: Path) -> None:
    root = tmp_path / "runs"
    for model in ("convnet", "mlp"):
        for name in ("a", "b"):
            for seed, accuracy in enumerate(ACCURACIES[name]):
                config = runs.config(name, seed, sweep="study_x", names__model=model)
                study_runs.write(runs, root, config, accuracy)
    out = Output("figures")
    text = section(asked(root, Plan(contrasts=(("a", "b"),))), out)
    assert text.count("### Asked besides") == 1
    assert "| on convnet / digits `a` against `b` |" in text
    assert out.answers == [f"on {model} / digits `a` is better than `b`"
                           for model in ("convnet", "mlp")]  # fmt: skip


def test_a_margin_makes_rows_equivalent(runs: Any, tmp_path: Path) -> None:
    names = {"adamw": ADAMW, "sgd": [*ADAMW[:6], 0.901, 0.9], "muon": MUON}
    plan = Plan(margin=0.004, contrasts=(("sgd", "adamw"),))
    found = asked(study_runs.study(runs, tmp_path / "runs", names), plan)
    out = Output("figures")
    assert "**equivalent**" in section(found, out)
    assert out.answers == ["`sgd` is equivalent to `adamw`"]
    assert "against `adamw`: better `muon`; equivalent `sgd`" in short(found[0])
