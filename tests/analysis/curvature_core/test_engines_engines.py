"""Every engine against the dense Hessian in float64, or a refusal by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from engine_cases import (
    CASES,
    DOUBLE,
    Tokens,
    batch,
    dense,
    network,
    random_directions,
    token_loss,
)
from half_used import Half
from hypothesis import given
from hypothesis import settings as tries
from hypothesis import strategies as st
from once_differentiable import OnceDifferentiable, Square
from torch import Tensor, nn

from analysis.curvature_core import objective as memory
from analysis.curvature_core.directions import Directions, gradient_directions
from analysis.curvature_core.engines import ENGINES, Engine, choose, curvature
from analysis.curvature_core.objective import Objective, Settings
from analysis.curvature_core.sweep import class_sweep
from optimizers.partition import weight_layers


@pytest.mark.parametrize("case", CASES)
def test_every_engine_equals_the_dense_hessian_or_refuses(case: str) -> None:
    model, data = network(case).eval(), batch(case)
    layers = list(weight_layers(model))
    gradients = gradient_directions(model, F.cross_entropy, data, layers, 3, settings=DOUBLE)
    for directions in (gradients, random_directions(model, layers)):
        exact = {name: dense(model, name, data, directions[name]) for name in layers}
        for engine in ("auto", *ENGINES):

            def run(engine: Any = engine, along: Any = directions) -> dict[str, Tensor]:
                return curvature(
                    model, F.cross_entropy, data, layers, along, engine=engine, settings=DOUBLE
                )  # fmt: skip

            if engine in ("sweep", "tangent") and not CASES[case].linear:
                with pytest.raises(ValueError, match=r"does not apply: .*(Gelu|Softmax|LayerNorm)"):
                    run()
                continue
            h = run()
            for name in layers:
                torch.testing.assert_close(h[name], exact[name], atol=1e-12, rtol=1e-10)


@pytest.mark.parametrize("case", ["conv_relu", "conv_gelu"])
def test_batch_norm_in_train_mode(case: str) -> None:
    """Double backward takes it; the others say that they do not."""
    model, data = network(case).train(), batch(case)
    train = Settings(torch.float64, mode="train")
    layers = list(weight_layers(model))
    directions = random_directions(model, layers)
    statistics = [buffer.clone() for buffer in model.buffers()]
    h = curvature(model, F.cross_entropy, data, layers, directions, settings=train)
    assert all(torch.equal(a, b) for a, b in zip(statistics, model.buffers(), strict=True))
    for name in layers:
        exact = dense(model, name, data, directions[name])
        torch.testing.assert_close(h[name], exact, atol=1e-12, rtol=1e-10)
    for engine in ("sweep", "tangent", "forward_over_reverse"):
        with pytest.raises(ValueError, match="BatchNorm in train mode"):
            curvature(
                model, F.cross_entropy, data, layers, directions, engine=engine, settings=train
            )


def test_dropout_has_one_mask_in_every_engine() -> None:
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(0.4), nn.Linear(8, 3)).double()
    data, train = batch("mlp_relu"), Settings(torch.float64, mode="train")
    directions = random_directions(model, ["0", "3"])
    found = [
        curvature(model, F.cross_entropy, data, ["0", "3"], directions, engine=e, settings=train)
        for e in ENGINES
    ]
    for other in found[1:]:
        for name in ("0", "3"):
            torch.testing.assert_close(other[name], found[0][name], atol=1e-13, rtol=1e-10)


@pytest.mark.parametrize("microbatch", [None, 2, "auto"])
def test_logits_at_every_position(microbatch: Any) -> None:
    torch.manual_seed(4)
    model = Tokens().double()
    data = torch.randint(0, 6, (5, 4)), torch.randint(0, 6, (5, 4))
    layers, how = ["mix", "up", "head"], Settings(torch.float64, microbatch)
    directions = random_directions(model, layers)
    expected, found = (
        curvature(model, token_loss, data, layers, directions, engine=engine, settings=how)
        for engine in ("double_backward", "tangent")
    )
    for name in layers:
        torch.testing.assert_close(found[name], expected[name], atol=1e-13, rtol=1e-10)
    chosen = choose(model, token_loss, data, layers, directions, settings=how)
    assert chosen.engine == "tangent"
    with pytest.raises(ValueError, match=r"needs logits \[B, C\], not \[B, 4, 6\]"):
        curvature(model, token_loss, data, layers, directions, engine="sweep", settings=how)


@pytest.mark.parametrize(
    ("classes", "engine"), [(3, "sweep"), (5, "sweep"), (6, "tangent"), (40, "tangent")]
)
def test_the_rule_counts_classes_against_directions(classes: int, engine: str) -> None:
    """Eight directions: as many as two for each of four columns."""
    model = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, classes))
    data = torch.randn(6, 4), torch.randint(0, classes, (6,))
    directions = random_directions(model, ["0", "2"])
    chosen = choose(model, F.cross_entropy, data, ["0", "2"], directions, settings=Settings())
    assert chosen.engine == engine
    assert f"{classes}" in chosen.reason


def test_the_rule_says_what_stands_in_the_way() -> None:
    model = network("attention_gelu")
    layers = list(weight_layers(model))
    directions = random_directions(model, layers)
    data = batch("attention_gelu")
    chosen = choose(model, F.cross_entropy, data, layers, directions, settings=Settings())
    assert chosen.engine == "double_backward"
    assert "Gelu, NativeLayerNorm, SafeSoftmax" in chosen.reason


@pytest.mark.parametrize("engine", ENGINES)
@given(microbatch=st.integers(1, 8), n=st.integers(1, 7))
@tries(max_examples=5, deadline=None)
def test_microbatches_change_nothing(engine: Engine, microbatch: int, n: int) -> None:
    model, data = network("conv_inplace").eval(), batch("conv_inplace", n)
    layers = ["0", "3.body.0", "8"]
    directions = random_directions(model, layers, 2)
    whole, parts = (
        curvature(model, F.cross_entropy, data, layers, directions, engine=engine, settings=how)
        for how in (DOUBLE, Settings(torch.float64, microbatch))
    )
    for name in layers:
        torch.testing.assert_close(parts[name], whole[name], atol=1e-13, rtol=1e-10)


@pytest.mark.parametrize("engine", ENGINES)
def test_float32_is_close_and_nothing_is_touched(engine: Engine) -> None:
    model, data = network("conv_relu").eval(), batch("conv_relu")
    layers = list(weight_layers(model))
    directions = random_directions(model, layers)
    exact = curvature(model, F.cross_entropy, data, layers, directions, settings=DOUBLE)
    before = [tensor.clone() for tensor in model.state_dict().values()]
    seen: list[tuple[int, int]] = []
    h = curvature(
        model, F.cross_entropy, data, layers, directions, engine=engine,
        settings=Settings(microbatch=3), progress=lambda done, total: seen.append((done, total)),
    )  # fmt: skip
    for name in layers:
        assert h[name].dtype == torch.float64
        assert not h[name].requires_grad
        torch.testing.assert_close(h[name], exact[name], atol=1e-6, rtol=2e-5)
        assert not torch.equal(h[name], exact[name])
    total = seen[0][1]
    assert seen == [(i, total) for i in range(1, total + 1)]
    state = model.state_dict().values()
    assert all(torch.equal(a, b) for a, b in zip(before, state, strict=True))
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())


def test_a_layer_that_the_loss_does_not_see_is_flat() -> None:
    torch.manual_seed(5)
    model, data = Half().double(), batch("mlp_relu")
    directions = random_directions(model, ["used", "unused"])
    for engine in ENGINES:
        h = curvature(
            model, F.cross_entropy, data, ["used", "unused"], directions,
            engine=engine, settings=DOUBLE,
        )  # fmt: skip
        assert h["unused"].tolist() == [0.0] * 4
        assert (h["used"] > 0).all()


@pytest.mark.parametrize("engine", ["sweep", "tangent"])
def test_certain_samples_do_not_underflow_in_float32(engine: Engine) -> None:
    """Logits 100 apart: p = e^-100 is no float32 number, the factor's root of it is."""
    model = nn.Sequential(nn.Linear(2, 3, bias=False)).double()
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[100.0, 0.0], [0.0, 1.0], [0.0, -1.0]]))
    data = torch.tensor([[1.0, 0.2], [1.01, -0.1]]).double(), torch.tensor([0, 0])
    along = {"0": random_directions(model, ["0"])["0"]}
    single, double = (
        curvature(model, F.cross_entropy, data, ["0"], along, engine=engine, settings=how)["0"]
        for how in (Settings(), DOUBLE)
    )
    assert (double > 1e-50).all() and (double < 1e-37).all()
    torch.testing.assert_close(single, double, atol=0, rtol=1e-4)
    p, (u, v) = model(data[0]).detach().softmax(1), (along["0"].left, along["0"].right)
    variance = (p.unsqueeze(2) * (u - (p @ u).unsqueeze(1)) ** 2).sum(1)
    by_hand = ((data[0] @ v) ** 2 * variance).mean(0)
    torch.testing.assert_close(double, by_hand, atol=0, rtol=1e-10)


@pytest.mark.parametrize(
    ("engine", "copies"),
    [("sweep", 6), ("tangent", 6), ("double_backward", 6 + 2 * 5), ("forward_over_reverse", 6 * 4)],
)
def test_automatic_passes_count_what_the_engine_holds(
    engine: Engine, copies: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, data = network("mlp_relu"), batch("mlp_relu")
    held = memory.saved_bytes(model, data[0][:1].clone())
    monkeypatch.setattr(memory, "_CPU_BUDGET", 2.5 * copies * held)
    seen: list[int] = []
    along = {"0": random_directions(model, ["0"])["0"]}
    curvature(
        model, F.cross_entropy, data, ["0"], along, engine=engine,
        settings=Settings(torch.float64, "auto"), progress=lambda _, total: seen.append(total),
    )  # fmt: skip
    assert seen == [4] * 4  # seven samples, two a pass


@pytest.mark.parametrize("engine", ENGINES)
def test_the_network_may_be_the_layer(engine: Engine) -> None:
    torch.manual_seed(6)
    model, data = nn.Linear(4, 3).double(), batch("mlp_relu")
    along = {"": Directions(torch.ones(2), *(F.normalize(torch.randn(s, 2).double(), dim=0)
                                             for s in (3, 4)))}  # fmt: skip
    h = curvature(model, F.cross_entropy, data, [""], along, engine=engine, settings=DOUBLE)
    expected = dense(nn.Sequential(model), "0", data, along[""])
    torch.testing.assert_close(h[""], expected, atol=1e-13, rtol=1e-10)


class Tied(nn.Module):
    """The output layer has the weight of the first."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(4, 4), nn.Linear(4, 4)
        self.down.weight = self.up.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.down(torch.relu(self.up(x)))


def test_a_shared_weight_moves_wherever_it_is_used() -> None:
    """Its Hessian has the block of each use and those between them."""
    torch.manual_seed(7)
    model, data = Tied().double(), batch("mlp_relu")
    weight, biases = model.up.weight.detach(), (model.up.bias, model.down.bias)
    along = random_directions(model, ["up"])

    def loss(flat: Tensor) -> Tensor:
        shared = flat.view_as(weight)
        hidden = torch.relu(F.linear(data[0], shared, biases[0]))
        return F.cross_entropy(F.linear(hidden, shared, biases[1]), data[1])

    hessian = torch.autograd.functional.hessian(loss, weight.flatten())
    d = torch.einsum("mk,nk->kmn", along["up"].left, along["up"].right).flatten(1)
    expected = torch.einsum("ki,ij,kj->k", d, hessian, d)
    for engine in ("auto", "double_backward", "forward_over_reverse"):
        for name in ("up", "down"):
            h = curvature(
                model, F.cross_entropy, data, [name], {name: along["up"]},
                engine=engine, settings=DOUBLE,  # type: ignore[arg-type]
            )[name]  # fmt: skip
            torch.testing.assert_close(h, expected, atol=1e-13, rtol=1e-10)
    for engine in ("sweep", "tangent"):
        with pytest.raises(ValueError, match="weight of layer 'up' is used elsewhere too"):
            curvature(model, F.cross_entropy, data, ["up"], along, engine=engine)  # type: ignore


def test_the_sweep_takes_no_logits_at_positions() -> None:
    torch.manual_seed(4)
    model, layers = Tokens().double(), ["head"]
    data = torch.randint(0, 6, (5, 4)), torch.randint(0, 6, (5, 4))
    objective = Objective(model, token_loss, data, layers, DOUBLE)
    with pytest.raises(ValueError, match=r"needs logits \[B, C\], not \(5, 4, 6\)"):
        class_sweep(objective, random_directions(model, layers), lambda: None)


@pytest.mark.parametrize(
    ("make", "layer", "loss"),
    [
        (OnceDifferentiable, "up", F.cross_entropy),
        (OnceDifferentiable, "up", lambda out, _: out.mean()),
        (lambda: nn.Linear(4, 3), "", lambda out, _: Square.apply(out).mean()),
    ],
)
def test_a_function_without_a_second_derivative_is_refused(
    make: Callable[[], nn.Module], layer: str, loss: Any
) -> None:
    """autograd would take it to be zero in silence: beneath a linear loss, and in a loss, too."""
    torch.manual_seed(0)
    model, data = make().double(), batch("mlp_relu")
    m, n = model.get_parameter(f"{layer}.weight" if layer else "weight").shape
    along = {layer: Directions(torch.ones(1), *(torch.eye(s)[:, :1].double() for s in (m, n)))}
    for engine in ("auto", "double_backward"):
        with pytest.raises(ValueError, match=r"no second derivative .* once_differentiable"):
            curvature(model, loss, data, [layer], along, engine=engine)  # type: ignore[arg-type]
    if loss is F.cross_entropy:
        for engine in ("sweep", "tangent"):
            with pytest.raises(ValueError, match="does not apply: a function of the network has"):
                curvature(model, loss, data, [layer], along, engine=engine)  # type: ignore[arg-type]


def test_unknown_engine() -> None:
    model, data = network("mlp_relu"), batch("mlp_relu")
    directions = random_directions(model, ["0"])
    with pytest.raises(ValueError, match="'auto' or one of sweep, tangent, double_backward"):
        curvature(model, F.cross_entropy, data, ["0"], directions, engine="fast")  # type: ignore


def test_compiled_networks_are_refused() -> None:
    model, data = network("mlp_relu"), batch("mlp_relu")
    directions = random_directions(model, ["0"])
    with pytest.raises(ValueError, match="a compiled network cannot be measured"):
        curvature(torch.compile(model), F.cross_entropy, data, ["_orig_mod.0"],
                  {"_orig_mod.0": directions["0"]})  # fmt: skip


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("case", CASES)
def test_cuda_agrees_with_cpu(case: str) -> None:
    model, data = network(case).eval(), batch(case)
    layers = list(weight_layers(model))
    directions = random_directions(model, layers)
    exact = curvature(model, F.cross_entropy, data, layers, directions, settings=DOUBLE)
    for engine in ENGINES if CASES[case].linear else ENGINES[2:]:
        double = Settings(torch.float64, "auto", device="cuda")
        single = Settings(microbatch=3, device="cuda", autotune=True)  # TF32 would miss it
        for how, rtol in ((double, 1e-9), (single, 5e-5)):
            h = curvature(
                model, F.cross_entropy, data, layers, directions, engine=engine, settings=how
            )
            for name in layers:
                torch.testing.assert_close(h[name], exact[name], atol=rtol / 10, rtol=rtol)
