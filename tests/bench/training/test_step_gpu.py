"""Whole steps as CUDA graphs: the same training as launched steps, and nothing waits."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from contract import missing_extra
from loops import setup_of
from torch import Tensor, nn

from analysis.callback import CurvatureCallback
from bench import config, files
from bench.build import build_optimizer, build_schedule
from bench.training.accounting import ceiling, measure_cost
from bench.training.losses import LossWindow
from bench.training.step import TrainingStep

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
STEPS = 12
NEED_A_FILE = {
    path.stem
    for path in (files.conf_dir() / "optimizer").glob("*.yaml")
    if "${exponents}" in path.read_text()
}
YAMLS = sorted(
    path for path in (files.conf_dir() / "optimizer").glob("*.yaml") if path.stem not in NEED_A_FILE
)
# Whose steps the study needs to be fast, and which keep nothing on the host.
CAPTURED = {"adam", "adamw", "muon", "sgd", "spectral_newton"}


class Net(nn.Module):
    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(16)
        self.conv2 = nn.Conv2d(16, 32, 3, stride=2, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(32)
        self.drop = nn.Dropout(dropout)
        self.hidden = nn.Linear(32 * 16, 64)
        self.head = nn.Linear(64, 10)

    def forward(self, inputs: Tensor) -> Tensor:
        features = torch.relu(self.norm1(self.conv1(inputs)))
        features = torch.relu(self.norm2(self.conv2(features))).flatten(1)
        logits: Tensor = self.head(torch.relu(self.hidden(self.drop(features))))
        return logits


class WaitsInACapture(torch.optim.SGD):
    """Breaks a capture in its middle, and only a capture."""

    def __init__(self, params: Any) -> None:
        super().__init__(params, lr=0.05, momentum=0.9)

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        super().step()
        if torch.cuda.is_current_stream_capturing():
            torch.cuda.synchronize()


@pytest.fixture(scope="module")
def batches() -> list[tuple[Tensor, Tensor]]:
    stream = torch.Generator().manual_seed(5)
    means = torch.randn(10, 3, 8, 8, generator=stream)
    found = []
    for _ in range(STEPS):
        targets = torch.randint(0, 10, (64,), generator=stream)
        inputs = means[targets] + torch.randn(64, 3, 8, 8, generator=stream)
        inputs = inputs.to("cuda", memory_format=torch.channels_last)
        found.append((inputs, targets.cuda()))
    return found


class Rig:
    def __init__(
        self, build: Any, optimizer: str | Callable[..., Any], dropout: float = 0.0, **own: Any
    ) -> None:
        self.notes: list[str] = []
        torch.manual_seed(1)
        self.model = Net(dropout).to("cuda", memory_format=torch.channels_last)
        if isinstance(optimizer, str):
            overrides = [f"trainer.compile={str(own.get('compile', False)).lower()}"]
            component = config.load([f"optimizer={optimizer}", *overrides]).optimizer
            self.optimizer = build_optimizer(component, self.model)
        else:
            self.optimizer = optimizer(self.model.parameters())
        cosine = {"_target_": "bench.schedules.cosine", "_partial_": True, "warmup": 0.2}
        self.schedule = build_schedule(cosine, self.optimizer, STEPS)
        settings = {**build.TRAINER, "grad_clip": 1.0, "precision": "bf16", "device": "cuda", **own}
        getattr(self.optimizer, "train", lambda: None)()
        self.step = TrainingStep(
            setup_of(settings), self.model, self.optimizer, self.schedule, note=self.notes.append
        )
        torch.manual_seed(2)

    def train(self, data: list[tuple[Tensor, Tensor]]) -> list[float]:
        window = LossWindow(len(data), torch.device("cuda"))
        for batch in data:
            window.add(self.step(*batch))
        return window.take()


@contextmanager
def nothing_may_wait() -> Iterator[None]:
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("yaml", YAMLS, ids=lambda path: path.stem)
def test_a_graph_trains_as_launched_steps_do(build: Any, batches: Any, yaml: Path) -> None:
    name = yaml.stem
    lacking = missing_extra(yaml)
    if lacking:
        pytest.skip(f"{name} {lacking}")
    launched, graph = Rig(build, name, cuda_graph=False), Rig(build, name)
    torch.manual_seed(2)
    expected = launched.train(batches)
    torch.manual_seed(2)
    found = graph.train(batches)
    print(name, "graph" if graph.step.graph else graph.notes)
    assert found == pytest.approx(expected, rel=0.03, abs=0.03)
    assert bool(graph.step.graph) == (not graph.notes)
    assert graph.step.graph is not None or name not in CAPTURED, graph.notes
    assert launched.step.graph is None
    for key, value in graph.model.named_buffers():  # BatchNorm's
        other = launched.model.get_buffer(key)
        torch.testing.assert_close(value, other, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_measurement_between_replays_changes_nothing(
    build: Any, batches: Any, tmp_path: Path, compiled: bool
) -> None:
    """The graph goes on with its own buffers, which no measurement moves or writes."""
    torch.compiler.reset()
    measure = CurvatureCallback(directions=4)
    losses: list[list[float]] = []
    for measured in (False, True):
        rig, found = Rig(build, "adamw", compile=compiled), []
        for start in range(0, STEPS, 4):
            found += rig.train(batches[start : start + 4])
            if measured:
                where = [tensor.data_ptr() for tensor in rig.model.state_dict().values()]
                state = {name: value.clone() for name, value in rig.model.state_dict().items()}
                random = torch.cuda.get_rng_state()
                values = measure(rig.model, batches[start], tmp_path, start, 0.0)
                assert "alpha/hidden" in values
                assert rig.step.graph is not None, rig.notes
                after = rig.model.state_dict()
                assert [tensor.data_ptr() for tensor in after.values()] == where
                assert all(torch.equal(state[name], value) for name, value in after.items())
                assert torch.equal(torch.cuda.get_rng_state(), random)
        losses.append(found)
    assert losses[1] == pytest.approx(losses[0], rel=0.03, abs=0.03)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["adamw", "muon", "spectral_newton", "spectral_newton_alpha1"])
def test_a_compiled_graph_trains_as_launched_steps_do(build: Any, batches: Any, name: str) -> None:
    torch.compiler.reset()
    launched = Rig(build, name, cuda_graph=False).train(batches)
    graph = Rig(build, name, compile=True)
    assert graph.train(batches) == pytest.approx(launched, rel=0.05, abs=0.05)
    assert graph.step.graph is not None, graph.notes


def test_replayed_steps_do_not_wait_for_the_device(build: Any, batches: Any) -> None:
    rig = Rig(build, "adamw", cuda_graph=True)
    rig.train(batches[:3])
    with nothing_may_wait():
        for batch in batches[3:]:
            rig.step(*batch)
    assert rig.step.graph is not None


def test_dropout_draws_what_launched_steps_draw(build: Any, batches: Any) -> None:
    launched = Rig(build, "sgd", dropout=0.5, cuda_graph=False)
    expected = launched.train(batches)
    end = torch.cuda.get_rng_state()
    graph = Rig(build, "sgd", dropout=0.5, cuda_graph=True)
    assert graph.train(batches) == pytest.approx(expected, rel=0.03, abs=0.03)
    assert torch.equal(torch.cuda.get_rng_state(), end)
    other = Rig(build, "sgd", dropout=0.5, cuda_graph=False)
    torch.manual_seed(3)
    assert other.train(batches) != pytest.approx(expected, rel=0.01, abs=0.01)


def test_a_capture_that_breaks_leaves_everything_as_it_was(build: Any, batches: Any) -> None:
    rig = Rig(build, WaitsInACapture, dropout=0.5)
    rig.train(batches[:2])
    before = copy.deepcopy([rig.model.state_dict(), rig.step.optimizer_state()])
    random = torch.cuda.get_rng_state()
    assert rig.step._recorder is not None
    rig.step._try_graph(rig.step._recorder, batches[2])
    assert rig.step.graph is None
    assert len(rig.notes) == 1
    assert torch.equal(torch.cuda.get_rng_state(), random)
    after = [rig.model.state_dict(), rig.step.optimizer_state()]
    for key, value in before[0].items():
        assert torch.equal(after[0][key], value), key
    for index, state in before[1]["state"].items():
        for key, value in state.items():
            assert torch.equal(after[1]["state"][index][key], value), key
    # And dropout still draws, the same numbers as in a run that never tried.
    rest = rig.train(batches[2:])
    plain = Rig(build, WaitsInACapture, dropout=0.5, cuda_graph=False).train(batches)
    assert rest == pytest.approx(plain[2:], rel=0.03, abs=0.03)


def test_a_last_partial_batch_is_launched(build: Any, batches: Any) -> None:
    small = [(inputs[:32], targets[:32]) for inputs, targets in batches[:1]]
    data = [*batches[:5], *small, *batches[5:]]
    graph = Rig(build, "adamw", cuda_graph=True).train(data)
    assert graph == pytest.approx(Rig(build, "adamw", cuda_graph=False).train(data), rel=0.03)


def test_a_run_is_continued_into_a_graph_and_out_of_one(build: Any, batches: Any) -> None:
    whole = Rig(build, "adamw", cuda_graph=False).train(batches)
    for first_graph, then_graph in ((True, False), (False, True), (True, True)):
        first = Rig(build, "adamw", cuda_graph=first_graph)
        first.train(batches[:6])
        saved = copy.deepcopy(
            [first.model.state_dict(), first.step.optimizer_state(), first.schedule.state_dict()]
        )
        rest = Rig(build, "adamw", cuda_graph=then_graph)
        rest.model.load_state_dict(saved[0])
        rest.step.load_optimizer_state(saved[1])
        rest.schedule.load_state_dict(saved[2])
        assert rest.train(batches[6:]) == pytest.approx(whole[6:], rel=0.03, abs=0.03)
        assert (rest.step.graph is not None) == then_graph


def test_an_epoch_waits_at_logging_windows_only(build: Any) -> None:
    # Feeding included; the order of an epoch goes to the device with its first batch.
    sgd = {"_target_": "torch.optim.SGD", "_partial_": True, "lr": 0.05, "momentum": 0.9}
    data = build.images().to("cuda")
    loop = build(data=data, optimizer=sgd, precision="bf16", epochs=3, cuda_graph=True)
    for _ in range(2):
        for inputs, targets in loop._batches():
            loop._train_step(inputs, targets)
        loop.window.take()
    feed = loop._batches()
    loop._train_step(*next(feed))
    with nothing_may_wait():
        for inputs, targets in feed:
            loop._train_step(inputs, targets)
    assert loop.training_step.graph is not None
    assert len(loop.window.take()) == loop.steps_per_epoch


def test_the_cost_of_a_step_is_measured_on_a_copy(build: Any, batches: Any) -> None:
    for name in ("adamw", "muon", "kfac"):
        component = config.load([f"optimizer={name}"]).optimizer
        model = Net(0.5).to("cuda", memory_format=torch.channels_last)
        before = copy.deepcopy(model.state_dict())
        random = torch.cuda.get_rng_state()
        cost = measure_cost(model, lambda it, c=component: build_optimizer(c, it), batches[0])
        assert torch.equal(torch.cuda.get_rng_state(), random)
        for key, value in model.state_dict().items():
            assert torch.equal(value, before[key]), key
        assert 0 < cost.optimizer_seconds < 1
        assert cost.flops_per_sample > 0
        print(name, cost)
    limit = ceiling(torch.device("cuda"), torch.bfloat16)
    assert limit > 1e13
