"""The folder optimizers/ copied elsewhere works on torch alone."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import optimizers
from optimizers import matrix_functions

SOURCE = Path(optimizers.__file__).parent
# What the rest of the project needs, and the optimizers may not.
HIDDEN = "bench analysis hydra_plugins hydra omegaconf wandb pydantic submitit pyarrow rich"

TRAINING = """
    import sys

    class Hidden:
        def find_spec(self, name, path=None, target=None):
            if name.partition(".")[0] in {hidden!r}.split():
                raise ModuleNotFoundError("hidden: " + name, name=name)

    sys.meta_path.insert(0, Hidden())

    import torch
    from torch import nn

    import optimizers
    from optimizers import Muon, SpectralNewton
    from optimizers.controls import MomentumOverDamping, ScrambledMuon
    from optimizers.kfac import KFAC, layers
    from optimizers.partition import hidden_matrices

    assert optimizers.__file__.startswith({folder!r}), optimizers.__file__
    torch.set_num_threads(1)
    for build in (
        lambda model: SpectralNewton(hidden_matrices(model)),
        lambda model: SpectralNewton(model.parameters(), method="polynomial"),
        lambda model: Muon(hidden_matrices(model)),
        lambda model: KFAC(layers(model)),
        lambda model: MomentumOverDamping([p for p in model.parameters() if p.ndim > 1]),
        lambda model: ScrambledMuon([p for p in model.parameters() if p.ndim > 1]),
    ):
        torch.manual_seed(0)
        hidden = [nn.Conv2d(1, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(64, 8), nn.Tanh()]
        model = nn.Sequential(*hidden, nn.Linear(8, 3))
        inputs, labels = torch.randn(12, 1, 6, 6), torch.arange(12) % 3
        optimizer, losses = build(model), []
        for _ in range(60):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(inputs), labels)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert losses[-1] < 0.8 * losses[0], (type(optimizer), losses[0], losses[-1])
    try:
        optimizers.ScalarSpectralAdam(model.named_parameters(), exponents=__file__)
    except ModuleNotFoundError as error:  # the one thing that needs more, when it is used
        assert error.name == "pyarrow", error
    else:
        raise AssertionError("pyarrow was not hidden")
"""


@pytest.mark.slow
def test_a_copy_trains_without_the_rest_of_the_project(tmp_path: Path) -> None:
    shutil.copytree(SOURCE, tmp_path / "optimizers", ignore=shutil.ignore_patterns("__pycache__"))
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(TRAINING).format(hidden=HIDDEN, folder=str(tmp_path)))
    done = subprocess.run(
        [sys.executable, "-E", str(script)],  # no PYTHONPATH: the script's folder comes first
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_nothing_but_torch_and_the_standard_library_is_imported() -> None:
    allowed = {*sys.stdlib_module_names, "torch", "optimizers"}
    late = {"pyarrow"}  # inside a function, where a file of exponents is read
    for file in SOURCE.rglob("*.py"):
        tree = ast.parse(file.read_text())
        for node in ast.walk(tree):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                top = name.partition(".")[0]
                nested = node not in tree.body
                assert top in allowed or (nested and top in late), (file.name, name)


@pytest.mark.parametrize("name", ["spectral_transfer", "newton_schulz", "polar", "rational_poles"])
def test_the_public_functions_have_one_name(name: str) -> None:
    assert callable(getattr(matrix_functions, name))
