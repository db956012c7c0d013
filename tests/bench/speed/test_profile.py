"""Classes of kernels, and how their times add up to the step's."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from bench.speed.profile import _kernels, breakdown, kind


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
