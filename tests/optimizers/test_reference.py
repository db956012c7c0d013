"""The plain rules against what is known otherwise, and every fast optimizer against them."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from contract import FILES, components, content
from hypothesis import given, settings
from hypothesis import strategies as st
from layer_rows import recorded
from plain_rules import RULES, ZERO, Plain, name_of
from torch import Tensor, nn
from transfer_cases import FLOAT64, random_matrix

from optimizers import Muon, ScalarSpectralAdam, SpectralNewton, reference
from optimizers.controls import MomentumOverDamping, ScrambledMuon
from optimizers.kfac import KFAC

SHAPES = {
    "square": (6, 6),
    "tall": (9, 4),
    "wide": (4, 9),
    "conv": (5, 2, 3, 3),
    "row": (1, 7),
    "column": (7, 1),
}
SIGMA = torch.tensor([3.0, 1.0, 0.2, 0.01], dtype=FLOAT64)
NORMS = {
    "none": 1.0,
    "frobenius": math.sqrt(9 + 1 + 0.04 + 0.0001),
    "rms": math.sqrt((9 + 1 + 0.04 + 0.0001) / 4),
    "spectral": 3.0,
    "schatten8": (3.0**8 + 1 + 0.2**8 + 0.01**8) ** (1 / 8),
}


def diagonal(values: Tensor, rows: int = 4, cols: int = 6) -> Tensor:
    """A matrix that is zero off its diagonal: its singular values are the values."""
    matrix = torch.zeros(rows, cols, dtype=FLOAT64)
    matrix.diagonal().copy_(values)
    return matrix


OURS = [file for file in FILES if content(file)["_target_"].startswith("optimizers.")]


# -- each rule against what is known otherwise ----------------------------------------------------


@pytest.mark.parametrize("normalize", list(NORMS))
@pytest.mark.parametrize("alpha", [0.5, 1.0, 2.0, 3.0])
def test_the_transfer_of_a_diagonal_matrix_is_that_of_its_entries(
    alpha: float, normalize: str
) -> None:
    sigma = SIGMA / NORMS[normalize]
    expected = diagonal(sigma / (sigma**alpha + 0.1))
    torch.testing.assert_close(reference.transfer(diagonal(SIGMA), alpha, 0.1, normalize), expected)
    turned = reference.transfer(diagonal(SIGMA).T, alpha, 0.1, normalize)
    torch.testing.assert_close(turned, expected.T)
    zero = torch.zeros(4, 6, dtype=FLOAT64)
    assert torch.equal(reference.transfer(zero, alpha, 0.1, normalize), zero)


@pytest.mark.parametrize("shape", [(5, 5), (8, 5), (5, 8)])
def test_the_limits_of_the_transfer(shape: tuple[int, int]) -> None:
    matrix = random_matrix(*shape)
    plain = reference.transfer(matrix, 0.0, 0.1, "none")
    torch.testing.assert_close(plain, matrix / 1.1)  # SGD
    tiny = reference.transfer(matrix, 1.0, 1e-14, "none")
    torch.testing.assert_close(tiny, reference.polar_factor(matrix))
    inverse = reference.transfer(matrix, 2.0, 1e-14, "none")
    torch.testing.assert_close(inverse, torch.linalg.pinv(matrix).T)
    huge = reference.transfer(matrix, 2.0, 1e14, "none")
    torch.testing.assert_close(huge * 1e14, matrix)
    solved = torch.linalg.solve(matrix @ matrix.T + 0.3 * torch.eye(shape[0]), matrix)
    torch.testing.assert_close(reference.transfer(matrix, 2.0, 0.3, "none"), solved)


@pytest.mark.parametrize("alpha", [0.5, 1.0, 1.5, 3.0])
@pytest.mark.parametrize("largest", [0.1, 1.0, 5.0])
def test_the_amplitude_is_the_maximum_on_a_fine_grid(largest: float, alpha: float) -> None:
    grid = torch.linspace(0, largest, 400_001, dtype=FLOAT64)
    found = reference.amplitude(diagonal(SIGMA / 3 * largest), alpha, 0.1, "none")
    expected = (grid / (grid**alpha + 0.1)).max()
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=0)


@pytest.mark.parametrize("shape", [(6, 6), (9, 4), (4, 9)])
def test_the_polar_factor_is_the_nearest_matrix_with_orthonormal_rows(
    shape: tuple[int, int],
) -> None:
    matrix = random_matrix(*shape)
    factor = reference.polar_factor(matrix)
    short = factor if shape[0] <= shape[1] else factor.T
    torch.testing.assert_close(short @ short.T, torch.eye(len(short), dtype=FLOAT64))
    rest = factor.T @ matrix  # M = U V^T (V sigma V^T): symmetric and positive
    torch.testing.assert_close(rest, rest.T)
    assert torch.linalg.eigvalsh(rest).min() > -1e-12
    # These coefficients converge to it, from any matrix.
    iterated = reference.newton_schulz(matrix, [(1.875, -1.25, 0.375)] * 40)
    torch.testing.assert_close(iterated, factor)
    thin = random_matrix(6, 2) @ random_matrix(2, 7, seed=1)
    assert float(reference.polar_factor(thin).norm()) == pytest.approx(math.sqrt(2))


def test_newton_schulz_is_its_products_of_matrices() -> None:
    matrix = random_matrix(4, 7)
    expected = matrix / matrix.norm()
    for _ in range(5):
        gram = expected @ expected.T
        expected = (3.4445 * torch.eye(4) - 4.775 * gram + 2.0315 * gram @ gram) @ expected
    found = reference.newton_schulz(matrix, [reference.MUON_QUINTIC] * 5)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize("scale", ["original", "match_rms_adamw"])
def test_muon_is_torchs_but_for_bfloat16(
    scale: str, nesterov: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def exact(grad: Tensor, coefficients: Any, ns_steps: int, eps: float) -> Tensor:
        return reference.newton_schulz(grad, [coefficients] * ns_steps)

    monkeypatch.setattr(torch.optim._muon, "_zeropower_via_newtonschulz", exact)
    options = {"lr": 0.05, "momentum": 0.9, "nesterov": nesterov, "weight_decay": 0.1}
    for shape in ((6, 6), (9, 4), (4, 9)):
        theirs = nn.Parameter(random_matrix(*shape))
        optimizer = torch.optim.Muon([theirs], adjust_lr_fn=scale, **options)
        ours, momentum = theirs.detach().clone(), torch.zeros(shape, dtype=FLOAT64)
        for step in range(4):
            theirs.grad = random_matrix(*shape, seed=step)
            optimizer.step()
            ours, momentum = reference.muon(ours, theirs.grad, momentum, scale=scale, **options)
        torch.testing.assert_close(ours, theirs.detach())


@pytest.mark.parametrize("torchs", [torch.optim.AdamW, torch.optim.Adam])
def test_the_rules_for_all_parameters_are_torchs(torchs: type[torch.optim.Optimizer]) -> None:
    options = {"betas": (0.8, 0.95), "eps": 1e-3, "weight_decay": 0.1}
    theirs = nn.Parameter(random_matrix(3, 2))
    optimizer = torchs([theirs], lr=0.03, **options)
    ours: Tensor = theirs.detach().clone()
    moments: Any = (ZERO, ZERO, 0)
    for step in range(5):
        theirs.grad = random_matrix(3, 2, seed=step)
        optimizer.step()
        if torchs is torch.optim.AdamW:
            ours, moments = reference.adamw(ours, theirs.grad, moments, lr=0.03, **options)
        else:
            ours, moments = reference.scalar_spectral_adam(
                ours, theirs.grad, moments, factor=3.0, lr=0.01, **options
            )
    torch.testing.assert_close(ours, theirs.detach())


@pytest.mark.parametrize("nesterov", [True, False])
def test_momentum_over_damping_is_torchs_sgd(nesterov: bool) -> None:
    theirs = nn.Parameter(random_matrix(4, 3))
    optimizer = torch.optim.SGD([theirs], lr=0.05, momentum=0.95, nesterov=nesterov)
    ours, momentum = theirs.detach().clone(), torch.zeros(4, 3, dtype=FLOAT64)
    for step in range(5):
        theirs.grad = random_matrix(4, 3, seed=step)
        optimizer.step()
        ours, momentum = reference.momentum_over_damping(
            ours, theirs.grad, momentum, lr=0.1, nesterov=nesterov, damping=0.1
        )
    torch.testing.assert_close(ours, theirs.detach())


def test_scalar_spectral_factors_of_three_layers() -> None:
    s = {"a": 1.0, "b": 2.0, "c": 6.0}  # the mean is 3
    spectral = reference.scalar_spectral_factors(s, beta=2.0)
    assert spectral == pytest.approx({"a": 1 / 9, "b": 4 / 9, "c": 4.0})
    inverse = reference.scalar_spectral_factors(s, beta=0.5, mode="inverse")
    assert inverse == pytest.approx({"a": 3**0.5, "b": 1.5**0.5, "c": 0.5**0.5})
    random = reference.scalar_spectral_factors(s, beta=2.0, mode="random", seed=1)
    assert all(1 / 9 <= factor <= 4 for factor in random.values())
    assert len(set(random.values())) == 3


@pytest.mark.parametrize("spectrum", ["uniform", "permuted"])
def test_scrambling_a_diagonal_matrix_changes_its_entries_alone(spectrum: str) -> None:
    values = torch.tensor([4.0, 3.0, 2.0, 0.0], dtype=FLOAT64)
    found = reference.scrambled(diagonal(values), spectrum, torch.Generator().manual_seed(0), 1e-12)
    tau = found.diagonal()
    torch.testing.assert_close(found, diagonal(tau))
    assert float(tau.norm()) == pytest.approx(math.sqrt(3))  # three directions
    assert (tau[:3] > 0).all()
    assert tau[3] == 0
    if spectrum == "permuted":
        expected = values * math.sqrt(3) / values.norm()
        torch.testing.assert_close(tau.sort(descending=True).values, expected)


@pytest.mark.parametrize("bias", [False, True])
def test_kfac_is_a_solve_with_the_whole_kronecker_product(bias: bool) -> None:
    """Two steps of a layer of 3 outputs and 4 inputs, clipped and decayed."""
    m, n, T, damping = 3, 4, 2, 0.05
    start = random_matrix(m, n)
    layer = reference.KfacLayer.start(start, bias)
    expected, momentum = start.flatten(), torch.zeros(m * n, dtype=FLOAT64)
    A, D = torch.zeros(n, n, dtype=FLOAT64), torch.zeros(m, m, dtype=FLOAT64)
    for step in range(2):
        a, delta = random_matrix(5, T, n, seed=step), random_matrix(5, T, m, seed=9 + step)
        gradient = random_matrix(m, n, seed=20 + step)
        options = {"lr": 0.1, "momentum": 0.5, "damping": damping, "decay": 0.8}
        options |= {"inverse_every": 1, "kl_clip": 1e-4, "weight_decay": 0.3}
        reference.kfac([layer], [gradient], [(a, delta)], step, **options)
        fresh = [
            sum(torch.outer(row, row) for row in rows.reshape(-1, rows.shape[-1])) / 5
            for rows in (a, delta)
        ]
        new = 1.0 if step == 0 else 0.2
        A, D = A + new * (fresh[0] / T - A), D + new * (fresh[1] - D)
        pi = math.sqrt((A.trace() / n) / (D.trace() / m))
        # Row-major flattening of D^-1 G A^-1 is (D kron A)^-1 g.
        curvature = torch.kron(
            D + math.sqrt(damping) / pi * torch.eye(m), A + pi * math.sqrt(damping) * torch.eye(n)
        )
        direction = torch.linalg.solve(curvature, gradient.flatten())
        nu = math.sqrt(1e-4 / (0.1**2 * direction @ gradient.flatten()))
        assert nu < 1
        momentum = 0.5 * momentum + nu * direction
        kept = torch.full((m, n), 0.97, dtype=FLOAT64)
        kept[:, n - bias :] = 1.0
        expected = kept.flatten() * expected - 0.1 * momentum
    torch.testing.assert_close(layer.W.flatten(), expected)


# -- every shipped optimizer of ours on a network -------------------------------------------------


@pytest.mark.parametrize("path", OURS, ids=lambda path: path.stem)
def test_every_optimizer_of_ours_has_a_rule(path: Path) -> None:
    for place, component in components(path):
        if place != "params.":  # how the parameters are grouped
            target = component["_target_"]
            assert name_of(target) in RULES, f"optimizers/reference.py has no rule for {target}"


@pytest.mark.parametrize(
    "kind",
    [SpectralNewton, Muon, ScrambledMuon, MomentumOverDamping, ScalarSpectralAdam, KFAC],
)
def test_a_rule_has_the_defaults_of_its_class(kind: type[torch.optim.Optimizer]) -> None:
    of_class = inspect.signature(kind).parameters
    of_rule = inspect.signature(RULES[name_of(kind.__name__)]).parameters
    shared = {name: of_rule[name].default for name in of_rule if name in of_class}
    assert {"lr", "weight_decay"} <= set(shared)
    assert shared == {name: of_class[name].default for name in shared}


@pytest.mark.parametrize("file", OURS, ids=lambda file: file.stem, indirect=True)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_twelve_steps_of_every_optimizer_of_ours_are_its_rule(
    file: Path,
    build: Callable[..., torch.optim.Optimizer],
    make_problem: Callable[..., Any],
    dtype: torch.dtype,
) -> None:
    tolerance = 1e-7 if dtype == torch.float64 else 2e-5
    if file.stem == "torch_muon":  # torch's products are in bfloat16, whatever the weights are
        tolerance = 0.1
    problem = make_problem(dtype)
    optimizer, start = build(problem.model), problem.weights()
    plain = Plain(file, problem.model, optimizer)
    layers = {group.get("layer") for group in optimizer.param_groups}
    kfac = layers if plain.rule is reference.kfac else set()
    modules = {name: module for name, module in problem.model.named_modules() if name in kfac}
    with recorded(modules) as recording:
        for _ in range(12):
            problem.gradients()
            rows = {  # of each sample's own loss, not of the mean
                layer: (a, len(problem.inputs) * delta)
                for layer, (a, delta) in recording.rows(homogeneous=True).items()
            }
            plain.step({n: p.grad.clone() for n, p in problem.model.named_parameters()}, rows)
            optimizer.step()
    for name, weight in problem.weights().items():
        moved = (plain.weights[name] - start[name]).norm()
        stored = 12 * torch.finfo(dtype).eps * weight.norm()  # each step rounds the weight
        assert moved > 0
        error = (weight - plain.weights[name]).norm()
        assert error < tolerance * moved + stored, (name, float(error / moved))


# -- one weight of any shape, any hyperparameters -------------------------------------------------


def distance(
    kind: type[torch.optim.Optimizer],
    shape: tuple[int, ...],
    options: dict[str, Any],
    *,
    rank: int | None = None,
    dtype: torch.dtype = FLOAT64,
    device: str = "cpu",
    seed: int = 0,
) -> float:
    """How far three steps of ``kind`` end from those of its rule, relative to where these end.

    ``rank`` is that of the gradients; the weight starts at zero, so that no sum rounds.
    """
    rule = RULES[name_of(kind.__name__)]
    accepted = inspect.signature(rule).parameters
    given = {key: value for key, value in options.items() if key in accepted}
    weight = nn.Parameter(torch.zeros(shape, dtype=dtype, device=device))
    optimizer = kind([("weight", weight)], **options)
    plain = momentum = torch.zeros(shape, dtype=FLOAT64)
    for step in range(3):
        gradient = random_matrix(*shape, seed=3 * seed + step)
        if rank is not None:
            rows, cols = gradient.flatten(1).shape
            left, right = random_matrix(rows, rank, seed=seed), random_matrix(rank, cols, seed=step)
            gradient = (left @ right).reshape(shape)
        weight.grad = gradient.to(weight)
        if rule is reference.scrambled_muon:
            given["stream"] = reference.draw(options["seed"], "weight", step)
            given["eps"] = torch.finfo(dtype).eps
        plain, momentum = rule(plain, weight.grad.cpu(), momentum, **given)
        optimizer.step()
    return float((weight.detach().cpu() - plain).norm() / plain.norm())


ANY_SHAPE = st.one_of(
    st.tuples(st.integers(1, 8), st.integers(1, 8)),
    st.tuples(st.integers(1, 6), st.integers(1, 3), st.integers(1, 3), st.integers(1, 3)),
)
MOMENTUM = {
    "lr": st.floats(1e-3, 10.0),
    "momentum": st.floats(0.0, 0.99),
    "nesterov": st.booleans(),
    "weight_decay": st.floats(0.0, 0.05),
}


@given(
    shape=ANY_SHAPE,
    low_rank=st.booleans(),
    seed=st.integers(0, 1000),
    dtype=st.sampled_from([torch.float64, torch.float32]),
    options=st.fixed_dictionaries(
        {
            **MOMENTUM,
            "alpha": st.one_of(st.sampled_from([1.0, 2.0]), st.floats(0.3, 4.0)),
            "damping": st.floats(0.01, 1.0),
            "normalize": st.sampled_from(list(NORMS)),
            "scale": st.sampled_from(["raw", "amplitude", "frobenius"]),
        }
    ),
)
@settings(max_examples=150, deadline=None)
def test_spectral_newton_of_any_shape(
    shape: tuple[int, ...], low_rank: bool, seed: int, dtype: torch.dtype, options: dict[str, Any]
) -> None:
    # Rounding of the smallest singular values, which T multiplies by 1 / damping.
    tolerance = 1e-6 if dtype == torch.float64 else 1e-5 / options["damping"]
    if options["scale"] == "amplitude" and options["normalize"] != "spectral":
        tolerance += 1e-3  # sigma_1 is known by a bound
    rank = 1 if low_rank else None
    error = distance(SpectralNewton, shape, options, rank=rank, dtype=dtype, seed=seed)
    assert error < tolerance


@given(
    shape=ANY_SHAPE,
    low_rank=st.booleans(),
    seed=st.integers(0, 1000),
    dtype=st.sampled_from([torch.float64, torch.float32]),
    options=st.fixed_dictionaries(
        {
            **MOMENTUM,
            "ns_steps": st.integers(1, 6),
            "scale": st.sampled_from(["original", "match_rms_adamw"]),
            "form": st.sampled_from(["direct", "gram"]),
        }
    ),
)
@settings(max_examples=100, deadline=None)
def test_muon_of_any_shape(
    shape: tuple[int, ...], low_rank: bool, seed: int, dtype: torch.dtype, options: dict[str, Any]
) -> None:
    rank = 1 if low_rank else None
    error = distance(Muon, shape, options, rank=rank, dtype=dtype, seed=seed)
    assert error < (1e-9 if dtype == torch.float64 else 1e-4)


@given(shape=ANY_SHAPE, seed=st.integers(0, 1000), options=st.fixed_dictionaries(MOMENTUM))
@settings(max_examples=50, deadline=None)
def test_the_controls_of_any_shape(
    shape: tuple[int, ...], seed: int, options: dict[str, Any]
) -> None:
    for spectrum, scale in (("uniform", "original"), ("permuted", "match_rms_adamw")):
        drawn = {**options, "spectrum": spectrum, "scale": scale, "seed": seed}
        assert distance(ScrambledMuon, shape, drawn, seed=seed) < 1e-6
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-5)):
        error = distance(MomentumOverDamping, shape, options, dtype=dtype, seed=seed)
        assert error < tolerance


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", sorted(SHAPES))
@pytest.mark.parametrize(
    ("method", "alpha"), [("polynomial", 1.0), ("polynomial", 2.0), ("rational", 1.0)]
)
def test_fast_methods_keep_to_their_tolerance(
    method: str, alpha: float, name: str, dtype: torch.dtype
) -> None:
    """The error of a singular value, relative to the largest T on [0, 1]."""
    options = {"alpha": alpha, "damping": 0.1, "scale": "raw", "momentum": 0.0, "lr": 1.0}
    weight = nn.Parameter(torch.zeros(SHAPES[name], dtype=dtype))
    weight.grad = random_matrix(*SHAPES[name]).to(dtype)
    plain, _ = reference.spectral_newton(weight.detach(), weight.grad, weight.detach(), **options)
    SpectralNewton([weight], method=method, tolerance=0.01, **options).step()
    sigma = torch.linspace(0, 1, 10_001)
    peak = (sigma / (sigma**alpha + 0.1)).max()
    error = torch.linalg.matrix_norm((weight.detach() - plain).flatten(1), 2)
    assert 1e-9 < error < 0.01 * peak


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("shape", [(64, 64), (256, 96), (96, 256), (32, 16, 3, 3)])
@pytest.mark.parametrize(
    ("kind", "options", "tolerance"),
    [
        (SpectralNewton, {}, 0.02),
        (SpectralNewton, {"alpha": 1.0}, 0.02),
        (SpectralNewton, {"normalize": "none", "scale": "raw", "method": "cholesky"}, 1e-4),
        (Muon, {}, 0.02),
        (MomentumOverDamping, {}, 1e-5),
    ],
)
def test_cuda_is_as_near_as_stated(
    kind: type[torch.optim.Optimizer],
    options: dict[str, Any],
    tolerance: float,
    shape: tuple[int, ...],
) -> None:
    error = distance(kind, shape, options, dtype=torch.float32, device="cuda")
    assert error < tolerance
