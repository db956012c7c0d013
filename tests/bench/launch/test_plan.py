"""The plan against run folders in every state there is."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from bench.config import RunConfig
from bench.errors import UserError
from bench.identity import identify, tracker_label
from bench.launch.grid import Invalid, Job
from bench.launch.plan import (
    Plan,
    Planned,
    again,
    axes,
    causes,
    distinct_overrides,
    duplicates,
    estimate,
    failures,
    look,
    make_plan,
    objections,
)
from bench.launch.status import JobStatus, RunStatus, run_folder
from bench.run_folder import RunFolder

Make = Callable[..., RunConfig]


@pytest.fixture
def job(quick: Make) -> Callable[..., Job]:
    def make(*overrides: str) -> Job:
        run = quick(*overrides)
        return Job(overrides, run, identify(run))

    return make


def folder_of(one: Job) -> RunFolder:
    folder = run_folder(one.config, one.identity.id)
    folder.path.mkdir(parents=True, exist_ok=True)
    return folder


def state_of(one: Job, job_status: JobStatus | None = None) -> RunStatus:
    (planned,) = look([one], lambda ids: {one.identity.id: job_status} if job_status else {})
    return planned.status


def test_states_by_folder(job: Callable[..., Job]) -> None:
    one = job("seed=1")
    assert state_of(one) == RunStatus("missing")
    folder = folder_of(one)
    folder.acquire()
    assert state_of(one) == RunStatus("running")
    folder.set_status("running")
    assert state_of(one) == RunStatus("running")
    folder.release()
    assert state_of(one) == RunStatus("interrupted")
    folder.set_status("failed", "MemoryError: ", kind="out of memory")
    assert state_of(one) == RunStatus("failed", "out of memory", "MemoryError: ")
    (folder.path / "log.txt").write_text("...")
    assert state_of(one).log == folder.path / "log.txt"
    for state in ("done", "diverged"):
        folder.set_status(state)  # type: ignore[arg-type]
        assert state_of(one) == RunStatus("untracked")
        folder.add_tracked(tracker_label(one.config))
        assert state_of(one) == RunStatus(state)  # type: ignore[arg-type]
        assert state_of(one).finished


def test_the_scheduler_knows_of_jobs_that_folders_do_not(job: Callable[..., Job]) -> None:
    one = job()
    assert state_of(one, JobStatus("queued", None, None, "7_1")) == RunStatus("queued")
    assert state_of(one, JobStatus("running", None, None, "7_1")) == RunStatus("running")
    assert state_of(one, JobStatus("ended", None, None, "7_1")) == RunStatus("missing")
    log = Path("7_1.out")
    killed = state_of(one, JobStatus("ended", "killed", log, "7_1"))
    assert killed == RunStatus("failed", "killed", "its job 7_1 ended: killed", log)
    folder_of(one).set_status("running")
    assert state_of(one, JobStatus("ended", "timeout", log, "7_1")).kind == "timeout"
    own = folder_of(one).path / "log.txt"  # says more of the run than its job's log
    own.write_text("...")
    assert state_of(one, JobStatus("ended", "timeout", log, "7_1")).log == own
    # What the run itself wrote goes before what became of its job.
    folder_of(one).set_status("failed", "ValueError: x", kind="exception")
    assert state_of(one, JobStatus("ended", "killed", log, "7_1")).kind == "exception"
    # A new job for it is under way.
    assert state_of(one, JobStatus("queued", None, None, "8_1")).state == "queued"
    folder_of(one).set_status("done")
    folder_of(one).add_tracked(tracker_label(one.config))
    assert state_of(one, JobStatus("running", None, None, "8_1")).finished


def test_the_scheduler_is_asked_only_of_what_is_not_done(job: Callable[..., Job]) -> None:
    done, missing = job("seed=1"), job("seed=2")
    folder_of(done).set_status("done", None, [tracker_label(done.config)])
    asked: list[list[str]] = []
    look([done, missing], lambda ids: asked.append(list(ids)) or {})
    assert asked == [[missing.identity.id]]
    look([done], lambda ids: asked.append(list(ids)) or {})
    assert len(asked) == 1


def planned(one: Job, state: str, kind: str | None = None) -> Planned:
    return Planned(one, RunStatus(state, kind, kind and f"{kind}!"))  # type: ignore[arg-type]


def test_the_line_is_in_a_fixed_order_with_causes(job: Callable[..., Job]) -> None:
    one = job()
    states = ["missing"] * 9 + ["done"] * 31 + ["running"] * 2
    kinds = ["out of memory"] * 4 + ["timeout"] + ["exception"]
    runs = [planned(one, state) for state in states] + [planned(one, "failed", k) for k in kinds]
    assert Plan(tuple(runs)).line() == (
        "48 planned: 31 done, 2 running, 9 missing, "
        "6 failed (4 out of memory, 1 timeout, 1 exception)"
    )
    assert Plan(()).line() == "0 planned: nothing"


class Words:
    """A composer that knows each combination beforehand."""

    def __init__(self, known: dict[str, Job | Invalid]) -> None:
        self.known = known

    def job(self, overrides: list[str]) -> Job | Invalid:
        return self.known[overrides[0]]


def test_duplicates_and_invalid_ones_are_named(job: Callable[..., Job]) -> None:
    one, two, same = job("seed=1"), job("seed=2"), job("seed=1", "trainer.threads=1")
    bad = Invalid(("seed=x",), "seed: no number")
    words = Words({"a": one, "b": two, "c": same, "d": bad})
    plan = make_plan(words, [["a"], ["b"], ["c"], ["d"]])  # type: ignore[arg-type]
    assert [run.job for run in plan.runs] == [one, two]
    assert plan.invalid == (bad,)
    assert duplicates(plan) == ["duplicate: seed=1: asked for 2 times, runs once"]


def test_what_varies_is_named_and_long_axes_are_cut() -> None:
    grid = [[f"seed={seed}", f"optimizer={name}", "a=1"] for seed in range(17) for name in "xy"]
    assert axes(grid) == "grid of 34: seed=0,1,2,...,16 (17 values) optimizer=x,y"
    assert axes(grid[:4]) == "grid of 4: seed=0,1 optimizer=x,y"
    assert axes([["seed=1"]]) == "grid of 1: nothing varies"


def test_a_cause_is_one_line_and_names_a_combination_only_where_it_is_to_blame() -> None:
    refused = [Invalid((f"seed={seed}",), "no CUDA", here=True) for seed in (1, 1, 2)]
    refused += [Invalid((f"seed={seed}",), "seed: no", here=False) for seed in (-1, -2)]
    assert causes([*refused, Invalid(("seed=3", "x=1"), "x: no")]) == [
        "would be refused here: no CUDA (2 runs)",
        "invalid: seed: no (2 runs, the first: seed=-1)",
        "invalid: x: no (seed=3 x=1)",
    ]


def test_objections_name_what_cannot_be_built_or_read(job: Callable[..., Job]) -> None:
    fine = job("seed=1")
    huge = job("trainer.batch_size=5000")
    absent = job("dataset=cifar10", "data_dir=nowhere")
    refused = objections([planned(one, "missing") for one in (fine, huge, absent, fine)])
    assert [one.overrides for one in refused] == [huge.overrides, absent.overrides]
    assert "does not fit" in refused[0].reason
    assert "spectral-bench prepare dataset=cifar10" in refused[1].reason
    assert [one.here for one in refused] == [False, True]


def on(one: Job, device: str) -> Planned:
    trainer = one.config.trainer.model_copy(update={"device": device})
    return planned(
        replace(one, config=one.config.model_copy(update={"trainer": trainer})), "missing"
    )


def test_a_device_is_asked_for_only_where_the_run_would_be(
    job: Callable[..., Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = [on(job(), device) for device in ("cuda", "cuda:1", "cpu", "auto")]
    for count, reasons in ((0, ["no CUDA", "no CUDA"]), (1, ["trainer.device: 'cuda:1' is not"])):
        monkeypatch.setattr("torch.cuda.device_count", lambda count=count: count)
        refused = objections(runs)
        assert all(one.here for one in refused)
        assert [one.reason[: len(text)] for one, text in zip(refused, reasons, strict=True)] == (
            reasons
        )
    assert objections(runs, elsewhere=True) == []


def test_exponents_that_are_still_to_be_measured_are_missing_here(job: Callable[..., Job]) -> None:
    fine = job("optimizer=spectral_newton")
    optimizer = {**fine.config.optimizer, "alpha": "measured"}
    lacking = replace(fine, config=fine.config.model_copy(update={"optimizer": optimizer}))
    (refused,) = objections([planned(one, "missing") for one in (fine, lacking)])
    assert refused.here
    assert "spectral-bench curvature" in refused.reason  # where they come from


def test_objections_try_each_place_of_data_and_each_schedule(job: Callable[..., Job]) -> None:
    places = [job("dataset=cifar10", f"data_dir={name}") for name in ("nowhere", "no_place")]
    fine = job("seed=1")
    changed = fine.config.model_copy(update={"schedule": {**fine.config.schedule, "warmup": -1.0}})
    steep = Job(("schedule.warmup=-1",), changed, fine.identity)
    refused = objections([planned(one, "missing") for one in (fine, *places, steep)])
    assert [one.overrides for one in refused] == [one.overrides for one in (*places, steep)]
    assert "nowhere" in refused[0].reason
    assert "no_place" in refused[1].reason
    assert refused[2].reason.startswith("schedule")


def test_what_is_carried_out_is_in_the_order_of_the_grid(job: Callable[..., Job]) -> None:
    states = ["failed", "missing", "done", "untracked", "running", "failed", "interrupted"]
    kinds = {0: "out of memory", 5: "timeout"}
    runs = [
        planned(job(f"seed={seed}"), state, kinds.get(seed)) for seed, state in enumerate(states)
    ]
    plan = Plan(tuple(runs))
    chosen = {"all": [0, 1, 3, 5, 6], "none": [1, 3, 6], "failed": [0, 5], "oom": [0]}
    for retry, seeds in {**chosen, "timeout": [5]}.items():
        assert [run.job.config.seed for run in plan.to_do(retry)] == seeds  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"retry=tiemout: .*did you mean timeout"):
        plan.to_do("tiemout")  # type: ignore[arg-type]


def test_overrides_that_all_share_are_left_out(job: Callable[..., Job]) -> None:
    runs = [planned(job("model=mlp", f"seed={seed}"), "missing") for seed in (1, 2)]
    assert list(distinct_overrides(runs).values()) == ["seed=1", "seed=2"]
    assert list(distinct_overrides(runs[:1]).values()) == ["model=mlp seed=1"]
    assert distinct_overrides([]) == {}


def test_a_failure_says_cause_log_and_command(job: Callable[..., Job]) -> None:
    one = job("seed=1", "model.hidden=[8]")
    log = Path("log.txt")
    run = Planned(one, RunStatus("failed", "out of memory", "MemoryError: 3 GiB", log))
    words = ["hydra.mode=MULTIRUN", "hydra/launcher=slurm"]
    text = failures(Plan((run, planned(job("seed=2"), "done"))), words)
    assert text.splitlines() == [
        "  seed=1 model.hidden=[8]: out of memory: MemoryError: 3 GiB",
        "    log:   log.txt",
        "    again: spectral-bench train -m hydra/launcher=slurm seed=1 'model.hidden=[8]'",
    ]
    assert again(run) == "spectral-bench train -m seed=1 'model.hidden=[8]'"


def finish(one: Job, seconds: float, epochs: float = 2.0, state: str = "done") -> None:
    folder = folder_of(one)
    folder.begin(one.config.model_dump(mode="json"), {"device_type": "cpu"})
    clocks = {"clock/step_seconds": 0.75 * seconds, "clock/evaluation_seconds": 0.25 * seconds}
    folder.finish("done", None, {"state": state, "epochs": epochs, **clocks})


def test_the_cost_is_that_of_the_most_alike(job: Callable[..., Job]) -> None:
    to_do = [planned(job("seed=9", "trainer.epochs=100"), "missing")]
    assert str(estimate(to_do)) == "no estimate: no finished run is like these 1"
    finish(job("optimizer=sgd"), 7200.0)  # the same model and data: 3600 s an epoch
    assert estimate(to_do).hours == pytest.approx(100.0)
    finish(job("seed=1"), 36.0)  # the same optimizer too: 18 s an epoch
    finish(job("seed=2"), 108.0)
    finish(job("seed=3"), 1e9, state="diverged")
    finish(job("seed=4"), 1e9, epochs=0)
    assert estimate(to_do).hours == pytest.approx(1.0)
    unlike = planned(job("dataset=fashion_mnist"), "missing")
    cost = estimate([*to_do, unlike])
    assert (cost.priced, cost.unknown, cost.device) == (1, 1, "cpu")
    assert str(cost) == "about 1 CPU-hours for 1 runs, by 3 past runs; 1 without precedent"
    for path in Path(to_do[0].job.config.runs_dir).glob("*/provenance.json"):
        path.write_text(json.dumps({"attempts": [{"device_type": "cuda"}]}))
    assert "GPU-hours" in str(estimate(to_do))
