"""The step: the same numbers launched from Python, compiled, and replayed from a recording.

A recording is made by CUDA only; ``InPython`` records for the same protocol on the CPU: nothing is
done while recording, and a replay reads only the memory that was recorded.
"""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable
from typing import Any

import pytest
import torch
from loops import setup_of
from torch import Tensor, nn

from bench import config
from bench.build import build_optimizer, build_schedule
from bench.errors import UserError
from bench.training.losses import cross_entropy
from bench.training.step import TrainingStep

CPU = torch.device("cpu")
STEPS = 8


class InPython:
    """Records on the CPU; ``spoil`` names what is wrong with its recordings."""

    def __init__(self, optimizer: torch.optim.Optimizer, spoil: str = "") -> None:
        self.optimizer, self.spoil = optimizer, spoil
        self.rehearsed, self.replayed, self.recovered = 0, 0, 0

    def rehearse(self, work: Callable[[], object], *, without_waiting: bool) -> None:
        self.rehearsed += 1
        if self.spoil == "waits" and without_waiting:
            raise RuntimeError("called a synchronizing CUDA operation\nmore")
        work()

    def record(self, work: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        groups, result = self.optimizer.param_groups, torch.zeros(())
        rates = [group["lr"] for group in groups]
        if self.spoil == "rates":  # numbers compiled in
            rates = [float(rate) for rate in rates]
        if self.spoil == "breaks":
            work()
            raise RuntimeError("operation not permitted when stream is capturing")

        def replay() -> None:
            self.replayed += 1
            now = [group["lr"] for group in groups]
            for group, rate in zip(groups, rates, strict=True):
                group["lr"] = rate
            if self.spoil != "nothing":
                result.copy_(work())
            for group, rate in zip(groups, now, strict=True):
                group["lr"] = rate

        return replay, result

    def recover(self) -> None:
        self.recovered += 1


class Net(nn.Module):
    """Everything that has state or draws random numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.drop = nn.Dropout(0.3)
        self.head = nn.Linear(4 * 25, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        features = torch.relu(self.norm(self.conv(inputs)))
        logits: Tensor = self.head(self.drop(features.flatten(1)))
        return logits


def batches(count: int = STEPS, size: int = 8) -> list[tuple[Tensor, Tensor]]:
    stream = torch.Generator().manual_seed(5)
    return [
        (
            torch.randn(size, 2, 5, 5, generator=stream),
            torch.randint(0, 3, (size,), generator=stream),
        )
        for _ in range(count)
    ]


class Rig:
    """One training, made of a name in conf/optimizer/."""

    def __init__(self, build: Any, name: str = "adamw", spoil: str | None = None, **own: Any):
        self.notes: list[str] = []
        torch.manual_seed(1)
        self.model = Net()
        component = config.load([f"optimizer={name}"]).optimizer
        self.optimizer = build_optimizer(component, self.model)
        cosine = {"_target_": "bench.schedules.cosine", "_partial_": True, "warmup": 0.3}
        self.schedule = build_schedule(cosine, self.optimizer, STEPS)
        self.recorder = None if spoil is None else InPython(self.optimizer, spoil)
        settings = {**build.TRAINER, "grad_clip": 1.0, **own}
        self.step = TrainingStep(
            setup_of(settings),
            self.model,
            self.optimizer,
            self.schedule,
            note=self.notes.append,
            recorder=self.recorder,
        )
        torch.manual_seed(2)

    def train(self, data: list[tuple[Tensor, Tensor]] | None = None) -> list[float]:
        return [float(self.step(*batch)) for batch in data or batches()]

    def state(self) -> dict[str, Any]:
        return {
            "model": self.model.state_dict(),
            "optimizer": self.step.optimizer_state(),
            "schedule": self.schedule.state_dict(),
            "random": torch.get_rng_state(),
        }


# -- what a step is -------------------------------------------------------------------------------


def test_a_step_is_that_of_a_loop_by_hand(build: Any) -> None:
    rig, other = Rig(build), Rig(build)
    torch.manual_seed(2)
    losses = rig.train()
    torch.manual_seed(2)
    expected = []
    for inputs, targets in batches():
        other.model.train()
        other.optimizer.zero_grad()
        loss = cross_entropy(other.model(inputs), targets, build.TRAINER["label_smoothing"])
        loss.backward()
        nn.utils.clip_grad_norm_(other.model.parameters(), 1.0)
        other.optimizer.step()
        other.schedule.step()
        expected.append(loss.item())
    assert losses == expected
    for found, wanted in zip(rig.model.parameters(), other.model.parameters(), strict=True):
        assert torch.equal(found, wanted)


def test_a_step_is_in_train_mode_whatever_was_before(build: Any) -> None:
    rig = Rig(build)
    rig.model.eval()
    rig.train(batches(1))
    assert rig.model.training
    assert int(rig.model.norm.num_batches_tracked) == 1


# -- replayed -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["adamw", "sgd", "nadam", "muon", "spectral_newton", "torch_muon"])
def test_replayed_steps_are_the_launched_ones(
    build: Any, assert_same: Callable[..., None], name: str
) -> None:
    plain = Rig(build, name)
    losses = plain.train()
    expected = copy.deepcopy(plain.state())
    recorded = Rig(build, name, spoil="")
    found = recorded.train()
    assert recorded.notes == []
    assert recorded.recorder is not None
    assert recorded.recorder.replayed == STEPS - 2 + 2  # and two to check the recording
    assert found == pytest.approx(losses, rel=1e-4)  # a rate in a tensor is rounded to float32
    for key, value in expected["model"].items():
        torch.testing.assert_close(recorded.state()["model"][key], value, rtol=1e-3, atol=1e-4)
    assert_same(recorded.state()["random"], expected["random"])
    assert_same(recorded.state()["schedule"], expected["schedule"])


def test_trying_a_recording_leaves_no_trace(build: Any, assert_same: Callable[..., None]) -> None:
    rig = Rig(build, spoil="")
    data = batches()
    rig.train(data[:2])
    before = copy.deepcopy(rig.state())
    assert rig.step._recorder is not None
    rig.step._try_graph(rig.step._recorder, data[2])
    assert rig.step.graph is not None
    assert_same(rig.state(), before)


def test_a_batch_of_another_shape_is_launched(build: Any) -> None:
    plain, recorded = Rig(build, "sgd"), Rig(build, "sgd", spoil="")
    data = [*batches(5), *batches(1, size=3), *batches(2)]
    torch.manual_seed(2)
    expected = plain.train(data)
    torch.manual_seed(2)
    assert recorded.train(data) == pytest.approx(expected, rel=1e-5)
    assert recorded.recorder is not None
    assert recorded.recorder.replayed == 3 + 2 + 2


def test_the_clock_is_told_when_a_step_is_cold(build: Any) -> None:
    rig, plain = Rig(build, spoil=""), Rig(build)
    assert not plain.step.cold
    cold = []
    for batch in batches(5):
        cold.append(rig.step.cold)
        rig.step(*batch)
    assert cold == [True, True, True, False, False]


# -- refused --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        ("waits", "called a synchronizing CUDA operation"),
        ("breaks", "operation not permitted when stream is capturing"),
        ("rates", "a replayed step differs from a launched one"),
        ("nothing", "a replayed step differs from a launched one"),
    ],
)
def test_a_recording_that_is_not_the_step_is_refused_without_a_trace(
    build: Any, assert_same: Callable[..., None], spoil: str, said: str
) -> None:
    plain = Rig(build)
    losses = plain.train()
    expected = copy.deepcopy(plain.state())
    rig = Rig(build, spoil=spoil)
    assert rig.train() == losses
    assert_same(rig.state(), expected)
    assert rig.step.graph is None
    assert len(rig.notes) == 1
    assert said in rig.notes[0]
    assert "\n" not in rig.notes[0]
    assert rig.recorder is not None
    assert rig.recorder.recovered == (spoil == "breaks")


@pytest.mark.parametrize("name", ["kfac", "soap", "schedule_free_adamw", "shampoo"])
def test_an_optimizer_that_needs_the_host_is_never_recorded(
    build: Any, assert_same: Callable[..., None], name: str
) -> None:
    plain, rig = Rig(build, name), Rig(build, name, spoil="")
    for each in (plain, rig):
        getattr(each.optimizer, "train", lambda: None)()
    torch.manual_seed(2)
    losses = plain.train()
    expected = copy.deepcopy(plain.state())
    torch.manual_seed(2)
    assert rig.train() == losses
    assert_same(rig.state(), expected)
    assert rig.recorder is not None
    assert (rig.recorder.rehearsed, rig.recorder.replayed) == (2, 0)  # its first two steps
    assert rig.notes[0].startswith("no CUDA graph, steps are launched from Python: the optimizer's")


def test_insisting_fails_clearly(build: Any) -> None:
    with pytest.raises(UserError, match=r"cuda_graph=true: .*cannot be captured \(.*steps"):
        Rig(build, "kfac", spoil="", cuda_graph=True).train()


# -- checkpoints ----------------------------------------------------------------------------------


def test_a_checkpoint_does_not_say_how_steps_were_computed(
    build: Any, assert_same: Callable[..., None]
) -> None:
    rig, other = Rig(build), Rig(build)
    rig.train(batches(2))
    state = copy.deepcopy(rig.step.optimizer_state())
    rig.optimizer.param_groups[0].update(fused=True, capturable=False)
    assert_same(rig.step.optimizer_state(), state)
    for group in other.optimizer.param_groups:
        group["foreach"], group["fused"] = None, True
    other.step.load_optimizer_state(state)
    assert other.optimizer.param_groups[0]["fused"] is True  # as here, not as there
    assert_same(other.step.optimizer_state(), state)


def test_what_is_loaded_is_continued_and_recorded(build: Any) -> None:
    whole = Rig(build)
    losses = whole.train()
    first = Rig(build)
    first.train(batches()[:3])
    saved = copy.deepcopy(first.state())
    rest = Rig(build, spoil="")
    rest.model.load_state_dict(saved["model"])
    rest.step.load_optimizer_state(saved["optimizer"])
    rest.schedule.load_state_dict(saved["schedule"])
    torch.set_rng_state(saved["random"])
    assert rest.train(batches()[3:]) == pytest.approx(losses[3:], rel=1e-5)
    assert rest.step.graph is not None


# -- compiled -------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_compiled_steps_are_the_launched_ones(
    build: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    plain = Rig(build)
    compiled = Rig(build, compile=True)
    for rig in (plain, compiled):
        rig.model.drop = nn.Identity()  # compiled code draws other masks
    assert compiled.step.cold
    assert compiled.train() == pytest.approx(plain.train(), rel=1e-4)
    assert not compiled.step.cold
