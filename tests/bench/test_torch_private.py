"""What is used of torch without being documented still is as it was: seen with torch 2.13."""

from __future__ import annotations

import subprocess
import sys

import torch
from torch import nn

from bench.files import home
from bench.torch_private import compiling_anew, without_compiler

BUILD = (
    "import sys, torch\nfrom bench.torch_private import without_compiler\n"
    "parameters = [torch.nn.Parameter(torch.zeros(3))]\n"
    "def build(): return torch.optim.SGD(parameters, lr=0.1)\n"
)


def built(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", BUILD + code + "\nprint('torch._dynamo' in sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
        cwd=home(),
    )
    return done.stdout.strip()


def test_an_optimizer_is_built_without_the_compiler_being_imported() -> None:
    told = f"torch {torch.__version__}: see bench/torch_private.py; is without_compiler needed?"
    assert built("with without_compiler(): build()") == "False", told
    assert built("build()") == "True", told


def test_the_method_is_the_wrapped_one_again_even_after_an_error() -> None:
    wrapped = torch.optim.Optimizer.add_param_group
    try:
        with without_compiler():
            assert torch.optim.Optimizer.add_param_group is not wrapped
            optimizer = torch.optim.SGD(nn.Linear(2, 2).parameters(), lr=0.1)
            assert [len(group["params"]) for group in optimizer.param_groups] == [2]
            raise RuntimeError
    except RuntimeError:
        pass
    assert torch.optim.Optimizer.add_param_group is wrapped


def test_the_limit_of_compiling_anew_is_torchs_and_comes_back() -> None:
    before = torch.compiler.config.recompile_limit
    with compiling_anew(before + 5):
        assert torch.compiler.config.recompile_limit == before + 5
    assert torch.compiler.config.recompile_limit == before
