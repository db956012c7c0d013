"""The timing of optimizer steps: its numbers, its reference, and its command.

The weight shapes that optimizers are timed on.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from bench.config import load
from bench.errors import UserError
from bench.speed.optimizer_step import (
    StepOptions,
    error_of,
    flops_of,
    main,
    materialised,
    measure,
    render,
    skeleton,
)
from optimizers.partition import hidden_matrices

CPU = torch.device("cpu")


def asked(**options: object) -> StepOptions:
    return StepOptions.model_validate({"model": "convnet", "rounds": 2, "calls": 1, **options})


def test_every_optimizer_gets_a_row_with_paired_ratios() -> None:
    rows = measure(asked(), CPU)
    assert [row.optimizer for row in rows] == ["adamw", "muon", "spectral_newton"]
    assert rows[0].ratios["adamw"] == 1.0
    assert rows[1].ratios["muon"] == 1.0
    assert rows[1].ratios["adamw"] != 1.0
    assert all(row.timing.median > 0 and row.how == "eager" for row in rows)
    assert rows[2].error is not None and rows[2].error < 1e-5
    assert rows[0].error is None and rows[1].error is None
    # AdamW keeps two moments of every weight, the others one of a hidden matrix.
    assert rows[0].state_mib > rows[1].state_mib
    assert len(render(rows).rows) == 3


def test_flops_are_those_of_the_newton_schulz_products() -> None:
    component = load(["optimizer=muon"]).optimizer
    expected = 0
    # The convnet for 3 channels: 16 x 27, 32 x 144 and 64 x 288; five steps of three products.
    for m, n in ((16, 27), (32, 144), (64, 288)):
        expected += 5 * (2 * m * m * n + 2 * m**3 + 2 * m * m * n)
    assert flops_of(component, asked(), CPU) == pytest.approx(expected / 1e9)


def test_the_error_sees_a_wrong_method() -> None:
    component = load(["optimizer=spectral_newton"]).optimizer
    right = error_of(component, asked(), CPU)
    assert right is not None and right < 1e-5
    lax = {**component, "method": "polynomial", "normalize": "schatten8", "tolerance": 0.1}
    found = error_of(lax, asked(), CPU)
    assert found is not None and 1e-3 < found < 0.3
    assert error_of(load(["optimizer=adamw"]).optimizer, asked(), CPU) is None


def test_gradients_are_the_same_in_both_precisions_and_decay() -> None:
    single, double = (materialised("convnet", CPU, d) for d in (torch.float32, torch.float64))
    for a, b in zip(single.parameters(), double.parameters(), strict=True):
        assert a.grad is not None and b.grad is not None
        assert torch.equal(a.grad.double(), b.grad)
        assert a.grad.is_contiguous() and not a.any()
    sigma = torch.linalg.svdvals(double.get_parameter("conv3.weight").grad.flatten(1))
    assert sigma[0] > 20 * sigma[-1]


def test_the_matrices_alone_leave_out_the_rest() -> None:
    whole, part = (
        materialised("convnet", CPU, torch.float64, which) for which in ("all", "matrices")
    )
    kept = {name for name, parameter in part.named_parameters() if parameter.grad is not None}
    assert kept == {f"conv{i}.weight" for i in (1, 2, 3)}
    assert all(parameter.grad is not None for parameter in whole.parameters())
    spectral = load(["optimizer=spectral_newton"]).optimizer
    assert error_of(spectral, asked(part="matrices"), CPU) is not None


def test_the_command_prints_and_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "steps.json"
    main(["model=convnet", "optimizers=adamw,muon:ns_steps=2", "rounds=2", "calls=1", f"out={out}"])
    assert "muon:ns_steps=2" in capsys.readouterr().out
    stored = json.loads(out.read_text())
    assert [row["optimizer"] for row in stored["rows"]] == ["adamw", "muon:ns_steps=2"]
    assert {"device", "torch", "python", "model"} <= stored.keys()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["model=convnot"], "did you mean convnet"),
        (["optimizers=muon:lr=-1"], "lr must be >= 0"),
        (["rounds=1"], "rounds=1"),
        (["device=cuda:99"], "device=cuda:99: 'cuda:99' is not here"),
        (["device=gpu"], "device=gpu: 'gpu' is no device; use auto, cpu or cuda"),
    ],
)
def test_mistakes_are_one_line(words: list[str], expected: str) -> None:
    with pytest.raises(UserError, match=expected) as caught:
        main(words)
    assert "\n" not in str(caught.value)


def test_gpt2_small_has_the_published_number_of_parameters() -> None:
    model = skeleton("gpt2_small")
    assert sum(parameter.numel() for parameter in model.parameters()) == 124_439_808
    matrices, rest = hidden_matrices(model)
    shapes = {tuple(parameter.shape) for _, parameter in matrices["params"]}
    assert shapes == {(2304, 768), (768, 768), (3072, 768), (768, 3072)}
    assert len(matrices["params"]) == 48
    assert set(matrices["layer_types"]) == {
        *("attention_qkv", "attention_output", "mlp_up", "mlp_down")
    }
    assert (50257, 768) in {tuple(parameter.shape) for _, parameter in rest["params"]}


def test_models_of_the_config_are_built_as_they_are() -> None:
    model = skeleton("resnet18")
    assert sum(parameter.numel() for parameter in model.parameters()) == 11_173_962
    assert all(parameter.is_meta for parameter in model.parameters())


def test_an_unknown_model_is_refused_with_the_nearest() -> None:
    with pytest.raises(UserError, match=r"model=gpt2: .*did you mean gpt2_small"):
        skeleton("gpt2")
