"""What stands in the way of the Gauss-Newton shortcut is found by what the network does."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from analysis.curvature_core.directions import Directions
from analysis.curvature_core.engines import curvature
from analysis.curvature_core.objective import Settings
from analysis.curvature_core.piecewise_linear import examine

Between = Callable[[nn.Module, Tensor], Tensor]


class Two(nn.Module):
    """Linear, whatever ``between`` does, Linear."""

    def __init__(self, between: Between, bias: bool = True) -> None:
        super().__init__()
        self.first, self.norm = nn.Linear(5, 5, bias=bias), nn.BatchNorm1d(5)
        self.second, self.scale = nn.Linear(5, 5), nn.Parameter(torch.tensor(0.3))
        self.between = between

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.between(self, self.first(x)))


LINEAR: dict[str, Between] = {
    "relu": lambda _, x: F.relu(x),
    "clamp": lambda _, x: x.clamp(-0.5, 0.5).abs(),
    "pool": lambda _, x: F.max_pool1d(x.unsqueeze(1), 3, 1, 1).squeeze(1),
    "norm": lambda m, x: m.norm(x),
    "in place": lambda _, x: F.relu_(x),
    "a smooth function of a parameter": lambda m, x: x * m.scale.exp(),
}
BENT: dict[str, tuple[Between, str]] = {
    "gelu": (lambda _, x: F.gelu(x), "Gelu"),
    "tanh": (lambda _, x: torch.tanh(x), "Tanh"),
    "layer norm": (lambda _, x: F.layer_norm(x, (5,)), "LayerNorm"),
    "softmax inside": (lambda _, x: x.softmax(1), "Softmax"),
    "square": (lambda _, x: x * x, "second derivative"),
    "gate": (lambda _, x: x[:, :1] * F.relu(x), "second derivative"),
    "bilinear": (lambda _, x: (x.unsqueeze(2) @ x.unsqueeze(1)).sum(2), "second derivative"),
    "reciprocal": (lambda _, x: 1 / (3 + x.abs()), "second derivative"),
    "faint square": (lambda _, x: 1e-11 * x * x, "in the output of layer 'first'"),
    "over samples": (lambda _, x: x - x.mean(0), "samples are not independent"),
    "samples before": (lambda _, x: x.cumsum(0), "samples are not independent"),
    "samples after": (lambda _, x: x.flip(0).cumsum(0).flip(0), "samples are not independent"),
    "other samples": (lambda _, x: x.flip(0), "samples are not independent"),
    "same weight again": (lambda m, x: F.relu(F.linear(x, m.first.weight)), "used elsewhere too"),
    "same weight again, faint": (
        lambda m, x: 1e-11 * F.relu(F.linear(x, m.first.weight)), "used elsewhere too"
    ),
    "same layer again": (lambda m, x: m.first(F.relu(x)), "called more than once"),
}  # fmt: skip


NO_LOGITS = "the network's output is no tensor of logits [B, ..., C]"


def data(n: int = 6) -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    return torch.randn(n, 5, dtype=torch.float64), torch.randint(0, 5, (n,))


def reason(model: nn.Module, loss: object = F.cross_entropy, mode: str = "eval") -> str | None:
    settings = Settings(torch.float64, mode=mode)  # type: ignore[arg-type]
    return examine(model, loss, data(), ["first", "second"], settings).obstacle  # type: ignore


@pytest.mark.parametrize("between", LINEAR.values(), ids=LINEAR)
def test_piecewise_linear_networks_pass(between: Between) -> None:
    model = Two(between).double().eval()
    assert reason(model) is None
    found = examine(model, F.cross_entropy, data(), ["first"], Settings())
    assert found == (None, (5,))


@pytest.mark.parametrize(("between", "why"), BENT.values(), ids=BENT)
def test_what_breaks_the_assumption_is_named(between: Between, why: str) -> None:
    model = Two(between).double().eval()
    said = reason(model)
    assert said is not None
    assert why in said
    along = Directions(torch.ones(1), *(torch.eye(5, dtype=torch.float64)[:, :1],) * 2)
    for engine in ("sweep", "tangent"):
        with pytest.raises(ValueError, match=f"engine '{engine}' does not apply: .*use double_"):
            curvature(model, F.cross_entropy, data(), ["first"], {"first": along}, engine=engine)
    h = curvature(
        model,
        F.cross_entropy,
        data(),
        ["first"],
        {"first": along},
        settings=Settings(torch.float64),
    )
    weight = model.first.weight
    with torch.enable_grad():
        (slope,) = torch.autograd.grad(
            F.cross_entropy(model(data()[0]), data()[1]), weight, create_graph=True
        )
        (again,) = torch.autograd.grad(slope[0, 0], weight)
    torch.testing.assert_close(h["first"][0], again[0, 0])  # auto took the engine that is right


def test_samples_are_looked_at_together_whatever_the_microbatch() -> None:
    model = Two(BENT["over samples"][0]).double().eval()
    said = examine(model, F.cross_entropy, data(), ["first"], Settings(microbatch=1)).obstacle
    assert said is not None
    assert "samples are not independent" in said


def test_a_network_that_runs_in_float32_alone_is_left_to_double_backward() -> None:
    class Single(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(5, 5)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x) @ torch.eye(5)

    torch.manual_seed(0)
    model, along = Single(), Directions(torch.ones(1), *(torch.eye(5).double()[:, :1],) * 2)
    said = examine(model, F.cross_entropy, data(), ["layer"], Settings()).obstacle
    assert said is not None
    assert "dtype" in said
    h, expected = (
        curvature(network, F.cross_entropy, data(), [name], {name: along})[name]
        for network, name in ((model, "layer"), (nn.Sequential(model.layer), "0"))
    )
    torch.testing.assert_close(h, expected, rtol=1e-5, atol=0)


FLAT_HERE: dict[str, Callable[[Tensor], Tensor]] = {
    "Elu": lambda x: F.elu(x + 50), "Softplus": lambda x: F.softplus(x + 50),
    "Hardswish": lambda x: F.hardswish(x + 50), "Erf": lambda x: torch.erf(x + 50),
    "Tanh": lambda x: torch.tanh(x - 50), "Sigmoid": lambda x: torch.sigmoid(x - 1000),
    "Exp": lambda x: torch.exp(x - 1000), "Mish": lambda x: F.mish(x + 50),
}  # fmt: skip


@pytest.mark.parametrize("name", FLAT_HERE)
def test_what_bends_elsewhere_is_found_by_its_name(name: str) -> None:
    """On the few samples looked at it is straight, to the last bit or nearly; not on all."""
    said = reason(Two(lambda _, x: x + FLAT_HERE[name](x)).double().eval())
    assert said == f"the network bends above a weight ({name})"


def test_batch_norm_in_train_mode_is_named() -> None:
    said = reason(Two(LINEAR["norm"]).double(), mode="train")
    assert said == "BatchNorm in train mode couples samples and bends"
    assert reason(Two(LINEAR["relu"]).double().eval(), mode="eval") is None


@pytest.mark.parametrize(
    "loss",
    [
        lambda out, y: 2 * F.cross_entropy(out, y),
        lambda out, y: F.cross_entropy(out, y, reduction="sum"),
        lambda out, y: F.cross_entropy(out, y, weight=torch.arange(1.0, 6).to(out)),
        lambda out, y: F.mse_loss(out, F.one_hot(y, 5).to(out)),
        lambda out, y: out.mean(),
    ],
)
def test_another_loss_is_found(loss: Callable[[Tensor, Tensor], Tensor]) -> None:
    said = reason(Two(LINEAR["relu"]).double(), loss)
    assert said == "the loss is not the mean softmax cross-entropy of the outputs"


def test_label_smoothing_bends_nothing() -> None:
    def loss(out: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(out, y, label_smoothing=0.1)

    assert reason(Two(LINEAR["relu"]).double(), loss) is None


def test_rows_ignored_later_in_the_batch_are_found() -> None:
    """The first samples look fine; the sweep checks the loss of every microbatch."""
    model, (x, y) = Two(LINEAR["relu"]).double(), data()
    y[-1] = -100
    along = {"first": Directions(torch.ones(1), *(torch.eye(5).double()[:, :1],) * 2)}
    for engine in ("sweep", "tangent"):
        with pytest.raises(ValueError, match="not the mean softmax cross-entropy"):
            curvature(model, F.cross_entropy, (x, y), ["first"], along, engine=engine)


class SequenceFirst(nn.Module):
    """Transposes the batch to [T, B, C] for its layer."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.Linear(4, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.layer(x.transpose(0, 1))).mean(0))


@pytest.mark.parametrize("positions", [4, 5])
def test_a_layer_that_sees_samples_second_is_found(positions: int) -> None:
    torch.manual_seed(1)
    batch = torch.randn(6, positions, 4), torch.randint(0, 3, (6,))
    said = examine(SequenceFirst(), F.cross_entropy, batch, ["layer"], Settings()).obstacle
    assert said is not None
    assert "samples are not independent, or not first, in the output of layer 'layer'" in said


def test_a_layer_that_sees_one_row_for_all_samples_is_found() -> None:
    class Pooled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.head = nn.Linear(5, 5), nn.Linear(5, 5)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(x) + self.layer(x.mean(0, keepdim=True))

    said = examine(Pooled(), F.cross_entropy, data(), ["layer"], Settings()).obstacle
    assert said == "samples are not independent, or not first, in the output of layer 'layer'"


def test_layers_of_other_kinds_or_never_called_are_named() -> None:
    attention = nn.MultiheadAttention(4, 2, batch_first=True)

    class Attends(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention, self.head = attention, nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.attention(x, x, x, need_weights=False)[0].mean(1))

    batch = torch.randn(4, 3, 4), torch.randint(0, 3, (4,))
    layers = ["attention.out_proj"]
    said = examine(Attends(), F.cross_entropy, batch, layers, Settings()).obstacle
    assert said is not None
    assert "is a NonDynamicallyQuantizableLinear, no Linear or Conv" in said
    up = nn.Sequential(nn.ConvTranspose2d(1, 2, 2), nn.Flatten(), nn.Linear(18, 3))
    images = torch.randn(4, 1, 2, 2), torch.randint(0, 3, (4,))
    said = examine(up, F.cross_entropy, images, ["0"], Settings()).obstacle
    assert said == "layer '0' is a ConvTranspose2d, no Linear or Conv"


def test_a_layer_that_is_not_called_is_named() -> None:
    class Functional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(5, 3)

        def forward(self, x: Tensor) -> Tensor:
            return F.linear(x, self.layer.weight, self.layer.bias)

    said = examine(Functional(), F.cross_entropy, data(), ["layer"], Settings()).obstacle
    assert said == "layer 'layer' is never called as a module"


def test_outputs_that_are_no_logits() -> None:
    flat = nn.Sequential(nn.Linear(5, 1), nn.Flatten(0))
    found = examine(flat, lambda out, _: out.mean(), data(), ["0"], Settings())
    assert found == (NO_LOGITS, ())


def test_outputs_in_a_tuple_are_measured_by_double_backward() -> None:
    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(5, 5)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return self.layer(x), x

    torch.manual_seed(0)
    model, along = Pair().double(), Directions(torch.ones(1), *(torch.eye(5).double()[:, :1],) * 2)
    assert examine(model, lambda out, y: F.cross_entropy(out[0], y), data(), ["layer"],
                   Settings()).obstacle == NO_LOGITS  # fmt: skip
    exact = Settings(torch.float64)
    h, expected = (
        curvature(network, loss, data(), [name], {name: along}, settings=exact)[name]  # type: ignore
        for network, loss, name in (
            (model, lambda out, y: F.cross_entropy(out[0], y), "layer"),
            (nn.Sequential(model.layer), F.cross_entropy, "0"),
        )
    )
    torch.testing.assert_close(h, expected)


def test_rows_that_are_not_samples_are_found() -> None:
    """Positions as rows from the start: independent of each other, but more than samples."""
    rows = nn.Sequential(nn.Flatten(0, 1), nn.Linear(5, 4))
    batch = torch.randn(6, 3, 5), torch.randint(0, 4, (6, 3))

    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(logits, labels.flatten())

    assert examine(rows, loss, batch, ["1"], Settings()).obstacle == NO_LOGITS
