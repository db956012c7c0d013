import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_transformers import images, tiny_gpt, tiny_vit, tokens
from torch import nn

from analysis import fits
from analysis.curvature_core.objective import Objective, Settings, cross_entropy
from analysis.curvature_core.products import HessianProducts, dense_hessian
from analysis.measure.landscape import (
    FIRST,
    averaged,
    decay,
    differences,
    measure_line,
    sample_losses,
    shuffled,
    windows,
)

DOUBLE = Settings(dtype=torch.float64)


def ends() -> tuple[nn.Module, nn.Module]:
    trained = tiny_vit(activation="gelu")
    start = copy.deepcopy(trained)
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in start.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return trained, start


def test_points_lie_on_the_line_between_both_networks() -> None:
    trained, start = ends()
    data = images(20)
    seen: list[tuple[int, int]] = []
    line = measure_line(
        trained, start, data, [0.0, 0.5, 1.0], DOUBLE,
        progress=lambda done, total: seen.append((done, total)),
    )  # fmt: skip
    middle = copy.deepcopy(trained)
    with torch.no_grad():
        for p, q in zip(middle.parameters(), start.parameters(), strict=True):
            p.copy_((p + q) / 2)
    for point, model in zip(line.points, (trained, middle, start), strict=True):
        expected = F.cross_entropy(model.eval()(data[0]), data[1], reduction="none")
        assert point.losses == pytest.approx(expected.tolist(), rel=1e-12)
    assert [p.distance for p in line.points] == pytest.approx([0, line.length / 2, line.length])
    assert seen[-1] == (3, 4)


def test_curvature_is_the_hessians_along_the_line() -> None:
    trained, start = ends()
    line = measure_line(trained, start, images(), [0.0], DOUBLE)
    hessian = dense_hessian(HessianProducts(trained, cross_entropy, images(), DOUBLE))
    step = nn.utils.parameters_to_vector(start.parameters()) - nn.utils.parameters_to_vector(
        trained.parameters()
    )
    step = step.detach()
    assert line.length == pytest.approx(float(step.norm()), rel=1e-12)
    expected = float(step @ hessian @ step) / line.length**2
    assert line.curvature == pytest.approx(expected, rel=1e-9)


def test_a_sequences_loss_is_the_mean_of_its_tokens() -> None:
    model, data = tiny_gpt().eval(), tokens()
    settings = Settings(dtype=torch.float64, microbatch=4)
    found = sample_losses(Objective(model, cross_entropy, data, [], settings))
    each = [F.cross_entropy(model(x[None])[0], y).item() for x, y in zip(*data, strict=True)]
    assert found == pytest.approx(each, rel=1e-12)


def test_what_has_no_line_is_refused() -> None:
    trained, _ = ends()
    with pytest.raises(ValueError, match="there is no line"):
        measure_line(trained, trained, images(), [0.0], DOUBLE)
    coupled = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
    data = torch.randn(6, 4), torch.arange(6) % 3
    with pytest.raises(ValueError, match="no sample a loss of its own"):
        measure_line(coupled, coupled, data, [0.0], Settings(mode="train"))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(-5, 5), min_size=2, max_size=60))
def test_differences_are_those_of_the_running_means(losses: list[float]) -> None:
    means = [np.mean(losses[:k]) for k in range(1, len(losses) + 1)]
    assert differences(losses) == pytest.approx(np.abs(np.diff(means)), abs=1e-12)


def test_windows_hold_every_k_once_and_their_means_are_plain() -> None:
    changes = np.random.default_rng(0).random(777)
    edges, centres, means = averaged(changes)
    assert edges[0] == FIRST and edges[-1] == 778 and (np.diff(edges) > 0).all()
    for start, stop, centre, mean in zip(edges[:-1], edges[1:], centres, means, strict=True):
        k = np.arange(int(start), int(stop))
        assert mean == pytest.approx(changes[k - 1].mean(), rel=1e-12)
        assert centre == pytest.approx(np.exp(np.log(k).mean()), rel=1e-12)
    assert len(windows(100_000)) - 1 == pytest.approx(32, abs=1)  # eight a decade


def test_a_known_power_and_constant_are_found() -> None:
    k = np.arange(1, 5001)
    found = decay(0.3 / (k + 1))
    assert found.exponent == pytest.approx(1, abs=0.02)  # k, not k + 1
    assert found.constant == pytest.approx(0.3, rel=1e-12)
    steep = decay(2.0 * k**-1.7)
    assert steep.exponent == pytest.approx(1.7, abs=0.01) and steep.r2 > 0.999
    _, centres, means = averaged(2.0 * k**-1.7)
    expected = fits.fit_alpha(centres, means)
    assert (steep.exponent, steep.stderr) == (-expected.exponent, expected.stderr)


def test_any_losses_in_no_order_fall_as_one_over_k_and_an_order_shows() -> None:
    rng = np.random.default_rng(1)
    losses = rng.exponential(size=4000)
    null, draws = shuffled(losses, draws=100)
    assert null.interval.low < 1 < null.interval.high and null.exponent == pytest.approx(1, abs=0.1)
    assert draws.shape == (100, len(windows(3999)) - 1)
    assert null.interval.low < decay(differences(losses)).exponent < null.interval.high
    ordered = decay(differences(np.sort(losses))).exponent
    assert ordered < null.interval.low  # later samples are larger: it falls more slowly


def test_the_null_covers_as_stated() -> None:
    rng = np.random.default_rng(2)
    hits = []
    for seed in range(60):
        losses = rng.lognormal(size=300)
        null, _ = shuffled(losses, draws=60, seed=seed)
        exponent = decay(differences(losses)).exponent
        hits.append(null.interval.low <= exponent <= null.interval.high)
    assert np.mean(hits) > 0.85


def test_what_cannot_be_is_refused() -> None:
    for losses, told in [([1.0], "2 samples"), ([1, np.inf], "finite"), ([[1, 2]], "got shape")]:
        with pytest.raises(ValueError, match=told):
            differences(losses)
    with pytest.raises(ValueError, match="needs 41 samples at least, got 20"):
        decay(differences(np.arange(20.0)))
    null, _ = shuffled(np.ones(60), draws=3)
    assert np.isnan(null.exponent)  # equal losses: no change to fit
