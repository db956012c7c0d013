"""The row's own arithmetic, and what is said of a step.

What the processes that measure a start are asked.

Classes of kernels, and how their times add up to the step's.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from bench import options
from bench.errors import UserError
from bench.speed.epoch import EpochOptions
from bench.speed.epoch_table import Row, _kernels, arguments, breakdown, kind, starts, step_lines
from bench.speed.loops import Pace
from bench.speed.stopwatch import Epoch
from bench.training.accounting import Cost


def row(seconds: list[float], baseline: list[float], **more: object) -> Row:
    epochs = tuple(Epoch(value, 10, value / 4) for value in seconds)
    return Row("x", epochs, tuple(baseline), 9.0, 100, 2e6, 1e12, None, **more)  # type: ignore[arg-type]


def test_medians_and_paired_ratios() -> None:
    found = row([3.0, 1.0, 8.0], [3.0, 0.5, 2.0])
    assert found.seconds == 3.0
    assert found.waiting == 0.75
    assert found.ratios == (1.0, 2.0, 4.0)
    assert found.ratio == 2.0  # and not 3 / 2, of the medians
    assert found.samples_per_second == pytest.approx(100 / 3)
    assert found.tflops == pytest.approx(2e8 / 3 / 1e12)
    assert found.utilisation == pytest.approx(2e8 / 3 / 1e12)
    assert found.as_json()["cost"] is None


@pytest.mark.parametrize(("host", "who"), [(0.9, "the device"), (6.1, "the host")])
def test_what_a_step_consists_of(host: float, who: str) -> None:
    ours = row([1.0], [1.0], cost=Cost(2e6, 3e9, 0.01), pace=Pace(host, 6.0), preparation=15.81)
    (line,) = step_lines([ours, row([2.0], [1.0])], steps_per_epoch=10)
    assert line == (
        "x: a step 100.00 ms; the optimizer alone 10.00 ms (10%), 3.0 GFLOP; "
        f"host {host:.2f} ms, device 6.00 ms: {who} is the bottleneck; "
        "compilation and warm-up 15.8 s"
    )


def test_steps_scale_to_an_epoch() -> None:
    assert Epoch(0.5, 2, 0.1).scaled(7) == pytest.approx((0.5 * 7 / 2, 7, 0.1 * 7 / 2))


def test_the_same_run_but_its_first_steps_only() -> None:
    asked = EpochOptions.model_validate(
        {
            "model": "convnet",
            "optimizer": ["adamw", "muon:ns_steps=2"],
            "overrides": ["dataset.count=200"],
            "start": True,
            "epochs": 7,
        }
    )
    words = arguments({**asked.model_dump(mode="json"), "out": Path("x.json")})
    again = options.parse(EpochOptions, words, prog="", description="")
    same = {"plain": False, "profile": False, "start": False, "epochs": 1, "steps": 4}
    assert again == asked.model_copy(update={**same, "out": Path("x.json")})


@pytest.mark.slow
def test_a_process_that_fails_says_why() -> None:
    with pytest.raises(UserError, match=r"empty cache failed: error: .*resnet19"):
        starts(EpochOptions.model_validate({"model": "resnet19", "device": "cpu"}).model_dump())


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("sm90_xmma_fprop_implicit_gemm_bf16bf16_bf16f32", "convolution"),
        ("void cudnn::ops::nchwToNhwcKernel<__nv_bfloat16>", "copies"),
        ("aten::mkldnn_convolution", "convolution"),
        ("triton_red_fused__native_batch_norm_legit_functional_3", "normalisation"),
        ("nvjet_tst_128x256_64x4_2x1_v_bz_coopA_NNT", "matrix products"),
        ("void at::native::multi_tensor_apply_kernel<FusedAdamMathFunctor>", "optimizer"),
        ("Memcpy DtoD (Device -> Device)", "copies"),
        ("flash_fwd_kernel", "attention"),
        ("triton_poi_fused_add_relu_7", "elementwise and other"),
        ("aten::addmm", "matrix products"),
    ],
)
def test_a_name_has_a_class(name: str, expected: str) -> None:
    assert kind(name) == expected


def test_kernels_and_what_is_between_them() -> None:
    kernels = [
        ("gemm", 1000.0, 3000.0),
        ("relu", 2500.0, 4000.0),  # half a millisecond of it beside the product
        ("relu", 2600.0, 2700.0),  # all of it
        ("fprop", 5000.0, 6000.0),
    ]
    found = _kernels(kernels, steps=2)
    assert found == pytest.approx(
        {"matrix products": 1.0, "convolution": 0.5, "elementwise and other": 0.5, "idle": 0.5}
    )
    assert sum(found.values()) == pytest.approx((6000 - 1000) / 1e3 / 2)
    assert _kernels([], 1) == {}


def test_operators_on_the_cpu() -> None:
    torch.manual_seed(0)
    model = nn.Linear(700, 700)
    inputs = torch.randn(2000, 700)
    found = breakdown(lambda: model(inputs).sum().backward(), torch.device("cpu"), 5)
    assert next(iter(found)) == "matrix products"
    assert list(found.values()) == sorted(found.values(), reverse=True)
