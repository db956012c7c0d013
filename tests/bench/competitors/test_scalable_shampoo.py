"""ScalableShampoo's state: plain, complete, on its parameters' device, and of its own options."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from contract import equal
from torch import Tensor, nn

pytest.importorskip("pytorch_optimizer", reason="pip install 'spectral-bench[baselines]'")

from bench import config, train
from bench.competitors.scalable_shampoo import ScalableShampoo
from bench.loop import Loop

OPTIONS = {"lr": 1e-2, "block_size": 32, "preconditioning_compute_steps": 3}
OPTIONS |= {"start_preconditioning_step": 2, "graft_type": 3}


def net(dtype: torch.dtype = torch.float32) -> nn.Module:
    """A matrix whose factors are of one size, and so one tensor, and one with a list of them."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 40)).to(dtype)


def steps(model: nn.Module, optimizer: torch.optim.Optimizer, seeds: range) -> None:
    for seed in seeds:
        torch.manual_seed(seed)  # of the batch, and of the package's power iterations
        dtype = next(model.parameters()).dtype
        optimizer.zero_grad()
        model(torch.randn(8, 32, dtype=dtype)).square().mean().backward()
        optimizer.step()


def through_a_file(state: dict[str, Any]) -> Any:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize("graft", range(5))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("done", [1, 3, 4])  # before, at and after a renewal of the roots
def test_a_state_through_a_file_is_continued_exactly(
    graft: int, dtype: torch.dtype, done: int
) -> None:
    whole, part = net(dtype), net(dtype)
    options = {**OPTIONS, "graft_type": graft}
    optimizer = ScalableShampoo(whole.parameters(), **options)
    steps(whole, optimizer, range(done))
    part.load_state_dict(whole.state_dict())
    resumed = ScalableShampoo(part.parameters(), **options)
    resumed.load_state_dict(through_a_file(optimizer.state_dict()))
    assert equal(resumed.state_dict(), optimizer.state_dict())
    assert all(param.grad is None for param in part.parameters())
    steps(whole, optimizer, range(done, 8))
    steps(part, resumed, range(done, 8))
    assert equal(dict(whole.state_dict()), dict(part.state_dict()))
    assert equal(resumed.state_dict(), optimizer.state_dict())


def test_factors_are_float32_beside_bfloat16_weights() -> None:
    model = net(torch.bfloat16)
    optimizer = ScalableShampoo(model.parameters(), **OPTIONS)
    steps(model, optimizer, range(4))
    states = optimizer.state_dict()["state"]
    assert states[0]["momentum"].dtype == torch.bfloat16
    stacked, listed = (states[key]["pre_conditioner"] for key in (0, 2))
    assert stacked["statistics"].shape == (2, 32, 32)
    assert stacked["statistics"].dtype == torch.float32
    sizes = [len(factor) for factor in listed["statistics"]]
    assert sizes == [1, 32, 32, 1, 8, 32]  # 40 x 32 is 1 x 40 x 32 to the package
    assert {factor.dtype for factor in listed["pre_conditioners"]} == {torch.float32}


def test_no_tensor_of_the_state_forbids_changes_in_place() -> None:
    model = net()
    optimizer = ScalableShampoo(model.parameters(), **OPTIONS)
    steps(model, optimizer, range(4))
    for state in optimizer.state_dict()["state"].values():
        for kept in state["pre_conditioner"].values():
            for factor in kept:
                factor.add_(0)


def test_everything_lands_on_the_device_of_its_parameter() -> None:
    model = net()
    optimizer = ScalableShampoo(model.parameters(), **OPTIONS)
    steps(model, optimizer, range(4))
    elsewhere = net().to("meta")
    moved = ScalableShampoo(elsewhere.parameters(), **OPTIONS)
    moved.load_state_dict(optimizer.state_dict())
    found: list[Tensor] = []
    for state in moved.state.values():
        kept = [*vars(state["pre_conditioner"]).values(), *vars(state["graft"]).values()]
        for value in [state["momentum"], *kept]:
            found += [item for item in (value if isinstance(value, list) else [value])
                      if isinstance(item, Tensor)]  # fmt: skip
    assert len(found) > 20
    assert {tensor.device.type for tensor in found} == {"meta"}


@pytest.mark.parametrize("other", [{"block_size": 8}, {"graft_type": 1}])
def test_a_state_of_other_options_is_refused(other: dict[str, int]) -> None:
    model = net()
    optimizer = ScalableShampoo(model.parameters(), **OPTIONS)
    steps(model, optimizer, range(1))
    fresh = ScalableShampoo(model.parameters(), **{**OPTIONS, **other})
    with pytest.raises(ValueError, match="the saved state is of other options: its "):
        fresh.load_state_dict(optimizer.state_dict())


def test_a_parameter_without_a_state_stays_without() -> None:
    model = net()
    optimizer = ScalableShampoo(model.parameters(), **OPTIONS)
    model[2].requires_grad_(False)
    steps(model, optimizer, range(1))
    fresh = ScalableShampoo(model.parameters(), **OPTIONS)
    fresh.load_state_dict(through_a_file(optimizer.state_dict()))
    assert list(fresh.state) == list(model[0].parameters())


def test_a_run_interrupted_between_two_renewals_ends_with_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, assert_same: Callable[..., None]
) -> None:
    words = ["optimizer=shampoo", "model=convnet", "dataset=digits", "tracker=none"]
    words += ["trainer.epochs=2", "trainer.batch_size=64", "trainer.threads=1"]
    words += ["trainer.device=cpu", "trainer.progress=none", "trainer.checkpoint_every=1"]
    whole, parts = (
        config.load([*words, f"runs_dir={tmp_path / name}"]) for name in ("whole", "parts")
    )
    train.train(whole)
    real, made = Loop._train_step, 0

    def stopping(self: Loop, *batch: Tensor) -> None:
        nonlocal made
        made += 1
        if made == 34:  # the roots of step 30 are in use, since step 25
            raise KeyboardInterrupt
        real(self, *batch)

    with monkeypatch.context() as patch:
        patch.setattr(Loop, "_train_step", stopping)
        with pytest.raises(KeyboardInterrupt):
            train.train(parts)
        train.train(parts)
    assert made - 34 == 40 - 33  # it went on from its checkpoint
    folders = [
        next((tmp_path / name).glob("*/checkpoint.pt")).parent for name in ("whole", "parts")
    ]
    states = [torch.load(folder / "checkpoint.pt", weights_only=True) for folder in folders]
    for state in states:
        state.pop("approach")  # the seconds to the target, which no two runs share
    assert states[0]["step"] == 40
    assert_same(*states)
    histories = [(folder / "history.jsonl").read_bytes() for folder in folders]
    assert histories[0] == histories[1]
