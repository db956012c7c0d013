import copy

import pytest
import torch
import torch.nn.functional as F
from tiny_transformers import images, tiny_gpt, tiny_vit, tokens
from torch import nn

from analysis.hessian.products import HessianProducts, dense_hessian
from analysis.measure.line import measure_line, sample_losses
from analysis.objective import Objective, Settings, cross_entropy

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
