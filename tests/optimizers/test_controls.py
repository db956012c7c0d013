"""The controls do what they are compared with, but for the one thing they take away.

The scrambled polar factors of many matrices equal those by an exact SVD of each.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor, nn

from optimizers import SpectralNewton
from optimizers.controls import SPECTRA, MomentumOverDamping, ScrambledMuon, scramble
from optimizers.reference import scrambled

CONFIGS = Path(__file__).parents[2] / "conf" / "optimizer"
RAW = {"normalize": "none", "scale": "raw", "alpha": 2.0}


def matrix(
    rows: int = 6, cols: int = 9, seed: int = 0, dtype: torch.dtype = torch.float64
) -> Tensor:
    stream = torch.Generator().manual_seed(seed)
    return torch.randn(rows, cols, generator=stream, dtype=torch.float64).to(dtype)


def moves(optimizer: Any, gradients: list[Tensor], **options: Any) -> list[Tensor]:
    """What ``optimizer`` adds to a weight of zeros at each step."""
    weight = nn.Parameter(torch.zeros_like(gradients[0]))
    made = optimizer([weight], **options)
    found = []
    for gradient in gradients:
        before = weight.detach().clone()
        weight.grad = gradient.clone()
        made.step()
        found.append(weight.detach() - before)
    return found


# -- SGD over damping -----------------------------------------------------------------------------


@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize("alpha", [2.0, 1.0])
def test_spectral_newton_at_small_sigma_is_momentum_over_damping(
    alpha: float, nesterov: bool
) -> None:
    damping = 0.1
    largest = (0.02 * damping) ** (1 / alpha)  # sigma^alpha / d is 2 % at most
    gradients = [matrix(seed=i) for i in range(4)]
    gradients = [largest * g / torch.linalg.matrix_norm(g, 2) for g in gradients]
    shared = {"lr": 0.1, "momentum": 0.9, "nesterov": nesterov, "damping": damping}
    paper = moves(SpectralNewton, gradients, **{**RAW, "alpha": alpha, "method": "eigh"}, **shared)
    control = moves(MomentumOverDamping, gradients, **shared)
    for theirs, ours in zip(paper, control, strict=True):
        assert 1e-6 < (theirs - ours).norm() / ours.norm() < 0.02


@pytest.mark.parametrize(
    ("control", "studied"),
    [
        ("sgd_over_damping", "spectral_newton_paper"),
        ("muon_scrambled", "muon"),
        ("torch_muon", "muon"),
    ],
)
def test_configs_share_all_that_they_have_in_common(control: str, studied: str) -> None:
    ours, theirs = (OmegaConf.load(CONFIGS / f"{name}.yaml") for name in (control, studied))
    assert ours.lr == theirs.lr
    shared = (set(ours.matrix) & set(theirs)) - {"_target_", "_partial_"}
    assert {"momentum", "nesterov", "weight_decay"} <= shared
    assert {key: ours.matrix[key] for key in shared} == {key: theirs[key] for key in shared}
    assert ours.other.lr == theirs.adamw_lr
    assert ours.other.weight_decay == theirs.get("adamw_weight_decay", 0.0)
    assert ours.params == theirs.params


# -- Muon with scrambled singular values ----------------------------------------------------------


def spectrum_along(update: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
    """The update in the singular basis of the gradient: its diagonal, and all that is off it."""
    left, _, right = torch.linalg.svd(gradient, full_matrices=False)
    inside = left.mT @ update @ right.mT
    diagonal = inside.diagonal()
    rest = update - left @ torch.diag(diagonal) @ right
    return diagonal, rest


def test_uniform_values_are_uniform_and_know_nothing_of_sigma() -> None:
    gradients = [matrix(12, 12, seed=i) for i in range(60)]
    found = [
        spectrum_along(-moves(ScrambledMuon, [g], lr=1.0, seed=i)[0], g)[0]
        for i, g in enumerate(gradients)
    ]
    values = torch.stack(found)  # [60, 12], by descending sigma
    # Uniform on [0, 1] scaled to a mean square of 1: mean sqrt(3)/2, standard deviation 1/2.
    assert values.mean().item() == pytest.approx(math.sqrt(3) / 2, abs=0.06)
    assert values.std().item() == pytest.approx(0.5, abs=0.06)
    by_rank = values.mean(0)
    assert abs(by_rank[:6].mean() - by_rank[6:].mean()).item() < 0.12


def test_the_draw_depends_on_seed_step_and_name_alone() -> None:
    gradient = matrix(8, 8)

    def update(seed: int = 0, steps: int = 1, name: str = "a", group: str = "x") -> Tensor:
        weight = nn.Parameter(torch.zeros_like(gradient))
        other = nn.Parameter(torch.zeros(2, 2))
        named = [(name, weight), (group, other)]
        optimizer = ScrambledMuon(named if group == "x" else named[::-1], lr=1.0, seed=seed)
        torch.rand(3)
        for _ in range(steps):
            weight.grad = gradient.clone()
            before = weight.detach().clone()
            optimizer.step()
        return weight.detach() - before

    first = update()
    assert torch.equal(first, update())
    torch.testing.assert_close(first, update(group="y"))  # another order of parameters
    for changed in (update(seed=1), update(steps=2), update(name="b")):
        assert not torch.allclose(first, changed, atol=1e-3)


# -- both -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [MomentumOverDamping, ScrambledMuon])
def test_what_is_refused(kind: Any) -> None:
    weight = nn.Parameter(torch.zeros(2, 2))
    for wrong in (torch.zeros(3), torch.zeros(2, 2, dtype=torch.complex64)):
        optimizer = kind([weight])
        with pytest.raises(ValueError, match=r"takes real matrices, got shape \("):
            optimizer.add_param_group({"params": [nn.Parameter(wrong)]})
        assert len(optimizer.param_groups) == 1
    weight.grad = torch.zeros(2, 2).to_sparse()
    with pytest.raises(RuntimeError, match="sparse"):
        kind([weight]).step()


SHAPES = [(6, 9), (9, 6), (6, 40), (6, 6), (1, 5), (5, 1), (1, 1), (3, 200), (64, 72), (300, 64)]


def samples(dtype: torch.dtype) -> list[Tensor]:
    """Random ones, falling spectra, of low rank, of extreme size, and zero."""
    stream = torch.Generator().manual_seed(0)
    made = [torch.randn(s, generator=stream, dtype=torch.float64) for s in SHAPES]
    decay = torch.logspace(0, -3, 64, dtype=torch.float64)
    basis = torch.linalg.qr(torch.randn(64, 64, generator=stream, dtype=torch.float64)).Q
    other = torch.linalg.qr(torch.randn(72, 64, generator=stream, dtype=torch.float64)).Q
    made.append(basis @ torch.diag(decay) @ other.mT)
    made += [a[:, :2] @ torch.ones(2, 9).double().tril() for a in made[:2]]
    made += [1e-30 * made[0], 1e20 * made[1], torch.zeros(6, 9), torch.zeros(9, 1)]
    return [m.to(dtype) for m in made]


@pytest.mark.parametrize("spectrum", SPECTRA)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_it_is_the_svd_with_other_singular_values(dtype: torch.dtype, spectrum: str) -> None:
    matrices = samples(dtype)
    seeds = list(range(len(matrices)))
    found = scramble(matrices, seeds, spectrum)
    for matrix, seed, step in zip(matrices, seeds, found, strict=True):
        assert step.dtype == torch.promote_types(dtype, torch.float32)
        stream, eps = torch.Generator().manual_seed(seed), torch.finfo(step.dtype).eps
        expected = scrambled(matrix, spectrum, stream, eps)
        error = (step.double() - expected).norm() / expected.norm().clamp(min=1e-300)
        assert error < (1e-9 if dtype == torch.float64 else 1e-6), (tuple(matrix.shape), seed)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_one_is_what_it_is_among_others(dtype: torch.dtype) -> None:
    matrices = samples(dtype)
    seeds = list(range(len(matrices)))
    together = scramble(matrices, seeds, "uniform")
    alone = [scramble([m], [s], "uniform")[0] for m, s in zip(matrices, seeds, strict=True)]
    torch.testing.assert_close(together, alone)
    assert scramble([], [], "uniform") == []


@pytest.mark.parametrize("spectrum", SPECTRA)
@pytest.mark.parametrize("wrong", [math.nan, math.inf])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_what_is_not_finite_shows_and_spoils_no_other(
    dtype: torch.dtype, wrong: float, spectrum: str
) -> None:
    matrices = samples(dtype)[:4]
    expected = scramble(matrices, [0, 1, 2, 3], spectrum)
    matrices[2][1, 1] = wrong
    found = scramble(matrices, [0, 1, 2, 3], spectrum)
    assert found[2].isnan().all()
    del found[2], expected[2]
    torch.testing.assert_close(found, expected)


def test_matrices_of_one_short_side_share_an_eigendecomposition(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen, exact = [], torch.linalg.eigh

    def counted(stack: Tensor) -> tuple[Tensor, Tensor]:
        seen.append(tuple(stack.shape))
        values, vectors = exact(stack)
        return values, vectors

    monkeypatch.setattr(torch.linalg, "eigh", counted)
    scramble([torch.randn(s) for s in [(4, 9), (4, 4), (7, 4), (3, 5)]], [0] * 4, "uniform")
    assert seen == [(3, 4, 4), (1, 3, 3)]
