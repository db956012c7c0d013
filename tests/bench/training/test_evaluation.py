"""Runs whose optimizer is judged at other weights than it trains at: averages, as Schedule-Free."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench import config, train
from bench.loop import Loop
from bench.parts import restore
from bench.training.evaluation import EvaluationWeights


class Averaged(torch.optim.SGD):
    """SGD whose evaluation weights are the mean of all weights it had; rounding on the way back."""

    def __init__(self, params: Any, lr: float = 0.05) -> None:
        super().__init__(params, lr=lr)
        self.param_groups[0].update(training=False, steps=0)

    def step(self, closure: Any = None) -> Any:
        group = self.param_groups[0]
        assert group["training"], "told to train before each step"
        super().step()
        group["steps"] += 1
        for param in group["params"]:
            state = self.state[param]
            mean = state.setdefault("mean", torch.zeros_like(param))
            mean.lerp_(param.detach(), 1 / group["steps"])

    def _move(self, training: bool) -> None:
        group = self.param_groups[0]
        if group["training"] == training:
            return
        group["training"] = training
        for param in group["params"]:
            if "mean" in self.state[param]:
                # The gap is kept, and added again: exact but for rounding.
                if not training:
                    self.state[param]["gap"] = param.detach() - self.state[param]["mean"]
                    param.data.sub_(self.state[param]["gap"])
                else:
                    param.data.add_(self.state[param].pop("gap"))

    def eval(self) -> None:
        self._move(False)

    def train(self) -> None:
        self._move(True)


class Net(nn.Module):
    def __init__(self, in_channels: int = 1, num_classes: int = 10, image_size: int = 8) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, 4, 3)
        self.norm = nn.BatchNorm2d(4, momentum=0.3)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(4, num_classes)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = torch.relu(self.norm(self.conv(inputs)))
        return self.head(self.drop(hidden.mean((2, 3))))


@pytest.fixture
def averaged(parts: Any) -> None:
    parts.Averaged, parts.Net = Averaged, Net


Make = Callable[..., config.RunConfig]


@pytest.fixture
def make(averaged: None, tmp_path: Path) -> Make:
    def run(folder: str = "runs", *more: str) -> config.RunConfig:
        words = ["model=mlp", "~model.hidden", "model._target_=bench_test_parts.Net"]
        words += ["optimizer=adamw", "~optimizer.betas", "~optimizer.eps"]
        words += ["~optimizer.weight_decay", "optimizer._target_=bench_test_parts.Averaged"]
        words += ["optimizer.lr=0.05", "tracker=none", "schedule=constant", "trainer.epochs=2"]
        words += ["trainer.batch_size=400", "trainer.threads=1", "trainer.progress=none"]
        return config.load([*words, f"runs_dir={tmp_path / folder}", *more])

    return run


def only(folder: Path) -> Path:
    (run,) = (path for path in folder.iterdir() if path.is_dir())
    return run


# -- the weights themselves -----------------------------------------------------------------------


def prepared(net: nn.Module | None = None) -> tuple[nn.Module, Averaged, EvaluationWeights, Any]:
    torch.manual_seed(0)
    net = net or Net()
    optimizer = Averaged(net.parameters())
    batches = [torch.randn(6, 1, 8, 8) + i for i in range(3)]
    served: list[int] = []

    def serve() -> Iterator[Tensor]:
        served.append(len(served))
        return iter(batches)

    weights = EvaluationWeights(net, optimizer, net, serve)
    for inputs in batches:
        optimizer.zero_grad()
        F.cross_entropy(net(inputs), torch.zeros(6).long()).backward()
        optimizer.step()
    return net, optimizer, weights, (batches, served)


def test_they_are_those_of_eval_and_training_goes_on_from_its_own() -> None:
    net, optimizer, weights, _ = prepared()
    training = copy.deepcopy(net.state_dict())
    found = weights.at(3)
    for name, value in net.state_dict().items():
        assert torch.equal(value, training[name]), name
    assert optimizer.param_groups[0]["training"]
    for name, param in net.named_parameters():
        torch.testing.assert_close(found[name], optimizer.state[param]["mean"])
    assert not torch.equal(found["head.weight"], net.head.weight)
    assert net.training


def test_they_are_lent_for_a_while() -> None:
    net, _, weights, _ = prepared()
    training, found = copy.deepcopy(net.state_dict()), weights.at(3)
    for error in (None, KeyError):
        try:
            with weights.lent(3):
                for name, value in net.state_dict().items():
                    assert torch.equal(value, found[name])
                if error:
                    raise error
        except KeyError:
            pass
        for name, value in net.state_dict().items():
            assert torch.equal(value, training[name])


def test_batch_norms_are_measured_at_them_as_plain_averages() -> None:
    net, _, weights, (batches, _) = prepared()
    random = torch.get_rng_state()
    found = weights.at(3)
    assert torch.equal(torch.get_rng_state(), random)  # dropout draws nothing
    other = Net()
    other.load_state_dict(found)
    inside = [other.conv(batch) for batch in batches]
    mean = torch.stack([batch.mean((0, 2, 3)) for batch in inside]).mean(0)
    var = torch.stack([batch.var((0, 2, 3)) for batch in inside]).mean(0)
    torch.testing.assert_close(found["norm.running_mean"], mean)
    torch.testing.assert_close(found["norm.running_var"], var)
    assert net.norm.momentum == 0.3
    assert net.norm.training


def test_they_are_found_once_a_step_and_without_norms_need_no_batches() -> None:
    _, _, weights, (_, served) = prepared()
    for step in (3, 3, 4):
        weights.at(step)
        with weights.lent(step):
            pass
    assert served == [0, 1]
    plain = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    _, _, weights, (_, served) = prepared(plain)
    weights.at(3)
    assert served == []


def test_other_optimizers_have_none() -> None:
    net = Net()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    weights = EvaluationWeights(net, optimizer, net, lambda: [])
    assert not weights.differ
    before = net.conv.weight
    with weights.lent(1):
        assert net.conv.weight is before
    assert weights.at(1)["conv.weight"].data_ptr() == before.data_ptr()


# -- in a run -------------------------------------------------------------------------------------


def test_accuracies_and_the_restored_network_are_theirs(make: Make, tmp_path: Path) -> None:
    summary = train.train(make())
    folder = only(tmp_path / "runs")
    restored = restore(folder, trusted=("bench_test_parts", __name__))
    checkpoint = torch.load(folder / "checkpoint.pt", weights_only=True)
    assert not torch.equal(
        checkpoint["model"]["head.weight"], checkpoint["training_model"]["head.weight"]
    )
    for split in ("val", "test"):
        hits = count = 0
        for images, labels in restored.data.eval_batches(split, 200):  # type: ignore[arg-type]
            with torch.no_grad():
                hits += int((restored.model(images).argmax(1) == labels).sum())
            count += len(labels)
        assert hits / count == summary[f"{split}/accuracy"]
    mean = checkpoint["optimizer"]["state"][4]["mean"]
    torch.testing.assert_close(checkpoint["model"]["head.weight"], mean)


@pytest.mark.slow
@pytest.mark.parametrize("at", [1, 2, 3, 4, 5])
def test_an_interrupted_run_ends_with_the_same_bits(
    make: Make,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    assert_same: Callable[..., None],
    at: int,
) -> None:
    train.train(make("whole"))
    real, steps = Loop._train_step, []

    def stopping(self: Loop, *batch: Tensor) -> None:
        if len(steps) == at:
            raise KeyboardInterrupt
        steps.append(None)
        real(self, *batch)

    every = "trainer.checkpoint_every=1"
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Loop, "_train_step", stopping)
        train.train(make("stopped", every))
    train.train(make("stopped", every))  # a checkpoint a step, where the other had one an epoch
    whole, stopped = (only(tmp_path / name) for name in ("whole", "stopped"))
    states = [torch.load(run / "checkpoint.pt", weights_only=True) for run in (whole, stopped)]
    assert_same(*states)
    assert (whole / "history.jsonl").read_bytes() == (stopped / "history.jsonl").read_bytes()


def test_checkpoints_of_other_optimizers_are_as_before(
    quick: Callable[..., config.RunConfig], tmp_path: Path
) -> None:
    train.train(quick())
    folder = only(tmp_path / "runs")
    assert "training_model" not in torch.load(folder / "checkpoint.pt", weights_only=True)
    shutil.rmtree(folder)


def test_schedule_free_adamw_is_better_at_them(tmp_path: Path) -> None:
    pytest.importorskip("pytorch_optimizer", reason="pip install 'spectral-bench[baselines]'")
    words = ["optimizer=schedule_free_adamw", "schedule=constant", "tracker=none", "model=convnet"]
    words += ["model.width=4", "trainer.epochs=4", "trainer.batch_size=128", "trainer.threads=1"]
    words += ["trainer.progress=none", "optimizer.lr=0.03", f"runs_dir={tmp_path}"]
    summary = train.train(config.load(words))
    restored = restore(only(tmp_path))
    checkpoint = torch.load(only(tmp_path) / "checkpoint.pt", weights_only=True)
    images, labels = next(restored.data.eval_batches("val", 1000))
    losses = []
    for key in ("model", "training_model"):
        restored.model.load_state_dict(checkpoint[key])
        with torch.no_grad():
            losses.append(F.cross_entropy(restored.model(images), labels).item())
    assert losses[0] == pytest.approx(summary["val/loss"], rel=1e-4)
    assert losses[0] < losses[1]
