"""The Kronecker side against factors written out, and its identities."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from half_used import Half
from torch import Tensor, nn

from analysis.curvature_core import layers as softmax_loss
from analysis.curvature_core.directions import Directions, gradient_directions
from analysis.curvature_core.engines import curvature
from analysis.curvature_core.kronecker import KroneckerSide, check_scale, kronecker_sides
from analysis.curvature_core.objective import Settings
from optimizers.kronecker import KroneckerFactors

DOUBLE = Settings(dtype=torch.float64)
LAYERS = ["0", "3", "6"]


@pytest.fixture
def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace=True),
        nn.Conv2d(4, 5, 3, stride=2), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(20, 3),
    ).double().eval()  # fmt: skip


@pytest.fixture
def data() -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    return torch.randn(9, 2, 6, 6).double(), torch.randint(0, 3, (9,))


def first(found: Directions, count: int) -> Directions:
    return Directions(found.sigma[:count], found.left[:, :count], found.right[:, :count])


def measured(
    network: nn.Module, data: Any, errors: Any, how: Settings = DOUBLE
) -> tuple[dict[str, Directions], dict[str, KroneckerSide]]:
    # The head's last direction, all classes alike, has neither sigma nor errors.
    directions = {
        name: found if name != "6" else first(found, 2)
        for name, found in gradient_directions(
            network, F.cross_entropy, data, LAYERS, 4, settings=DOUBLE
        ).items()
    }
    sides = kronecker_sides(network, F.cross_entropy, data, directions, errors=errors, settings=how)
    return directions, sides


def by_hand(network: nn.Module, data: Any, layer: str, errors: str) -> tuple[Tensor, Tensor, Any]:
    """Inputs [N, T, n] and errors [c, N, T, m] of a layer, one sample and class at a time."""
    module, seen = network.get_submodule(layer), {}

    def hook(_: nn.Module, args: Any, out: Tensor) -> Tensor:
        seen["a"], seen["z"] = args[0].detach().clone(), out
        return out.clone()

    handle = module.register_forward_hook(hook)
    logits = network(data[0])
    handle.remove()
    p = logits.detach().softmax(1)
    if errors == "label":
        columns = [p - F.one_hot(data[1], 3)]
    else:
        columns = [p[:, [c]].sqrt() * (F.one_hot(torch.tensor(c), 3) - p) for c in range(3)]
    deltas = [torch.autograd.grad(logits, seen["z"], c, retain_graph=True)[0] for c in columns]
    a = seen["a"]
    if isinstance(module, nn.Conv2d):
        a = F.unfold(a, module.kernel_size, 1, module.padding, module.stride).mT
        return a, torch.stack([d.flatten(2).mT for d in deltas]), logits
    return a.unsqueeze(1), torch.stack([d.unsqueeze(1) for d in deltas]), logits


@pytest.mark.parametrize("errors", ["class", "label"])
@pytest.mark.parametrize("layer", LAYERS)
def test_factors_and_ratios_by_hand(network: nn.Module, data: Any, layer: str, errors: str) -> None:
    directions, sides = measured(network, data, errors)
    side, along = sides[layer], directions[layer]
    a, delta, _ = by_hand(network, data, layer, errors)
    positions = a.shape[1]
    c_a = torch.einsum("btn,btm->nm", a, a) / 9
    c_delta = torch.einsum("cbtn,cbtm->nm", delta, delta) / 9
    u, v = along.left, along.right
    close = torch.testing.assert_close
    close(side.delta, torch.einsum("mk,mn,nk->k", u, c_delta, u))
    close(side.inputs, torch.einsum("mk,mn,nk->k", v, c_a, v))
    close(side.delta_spectrum, torch.linalg.eigvalsh(c_delta).flip(0).clamp_min(0))
    close(side.input_spectrum, torch.linalg.eigvalsh(c_a).flip(0).clamp_min(0))
    assert side.positions == positions
    x, y = a @ v, delta @ u  # [b, t, k], [c, b, t, k]
    whole, apart = (x * y).sum(2).square().sum((0, 1)), (x * y).square().sum((0, 1, 2))
    close(side.sud, whole / apart)
    close(side.iad, (apart / (9 * positions)) /
          ((y**2).sum((0, 1, 2)) / (9 * positions) * (x**2).mean((0, 1))))  # fmt: skip
    close(side.h_kron, side.delta * side.inputs / positions)


def test_chi_is_sud_times_iad_where_curvature_is_gauss_newton(
    network: nn.Module, data: Any
) -> None:
    """With class errors nothing else is between the exact Hessian and the factors."""
    directions, sides = measured(network, data, "class")
    h = curvature(network, F.cross_entropy, data, LAYERS, directions,
                  engine="double_backward", settings=DOUBLE)  # fmt: skip
    for layer in LAYERS:
        chi = h[layer] / sides[layer].h_kron
        torch.testing.assert_close(chi, sides[layer].sud * sides[layer].iad, rtol=1e-8, atol=0)
    assert torch.allclose(sides["6"].sud, torch.ones(2).double())  # one position


def test_convolutions_over_one_and_three_axes() -> None:
    """Against the approximation's dense block, and against the dense Hessian by its identity."""
    torch.manual_seed(4)
    model = nn.Sequential(
        nn.Conv3d(2, 3, (1, 2, 2), padding=(0, 1, 0)), nn.ReLU(), nn.Flatten(2),
        nn.Conv1d(3, 4, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3),
    ).double()  # fmt: skip
    batch = torch.randn(7, 2, 1, 2, 4).double(), torch.randint(0, 3, (7,))
    layers = ["0", "3"]
    along = gradient_directions(model, F.cross_entropy, batch, layers, 3)
    sides = kronecker_sides(model, F.cross_entropy, batch, along, errors="class", settings=DOUBLE)
    h = curvature(model, F.cross_entropy, batch, layers, along,
                  engine="double_backward", settings=DOUBLE)  # fmt: skip
    with KroneckerFactors({n: model.get_submodule(n) for n in layers}, reduction="sum") as factors:
        logits = model(batch[0])
        for column in softmax_loss.factor(logits):
            logits.backward(column, retain_graph=True)
        gathered = factors.pop_all()
    for layer in layers:
        side, found = sides[layer], gathered[layer]
        dense = torch.kron(found.output, found.input_mean)
        for k in range(3):
            d = torch.outer(along[layer].left[:, k], along[layer].right[:, k]).flatten()
            torch.testing.assert_close(side.h_kron[k], d @ dense @ d)
        torch.testing.assert_close(h[layer] / side.h_kron, side.sud * side.iad, rtol=1e-8, atol=0)


def test_microbatches_change_nothing(network: nn.Module, data: Any) -> None:
    for errors in ("class", "label"):
        _, whole = measured(network, data, errors)
        _, parts = measured(network, data, errors, Settings(torch.float64, 4))
        for layer in LAYERS:
            for name, value in vars(whole[layer]).items():
                torch.testing.assert_close(getattr(parts[layer], name), value)


def test_sums_and_spectra_are_float64_of_float32_passes(network: nn.Module, data: Any) -> None:
    _, exact = measured(network, data, "class")
    _, found = measured(network.float(), data, "class", Settings())
    for layer in LAYERS:
        for name, value in vars(found[layer]).items():
            if name != "positions":
                assert value.dtype == torch.float64
                torch.testing.assert_close(value, getattr(exact[layer], name), rtol=1e-4, atol=1e-6)
    # Errors of three classes sum to zero: rank 2; rounding of float32 sums would be 1e-8 here.
    spectrum = found["6"].delta_spectrum
    assert spectrum[2] < 1e-12 * spectrum[0]


def test_the_bound_holds_and_a_mistake_of_scale_is_found(network: nn.Module, data: Any) -> None:
    directions, sides = measured(network, data, "label")
    for layer in LAYERS:
        squared = directions[layer].sigma ** 2
        assert (squared <= sides[layer].delta * sides[layer].inputs * (1 + 1e-9)).all()
    side = sides["3"]
    mean = KroneckerSide(**{**vars(side), "delta": side.delta / 81})  # errors of the mean loss
    with pytest.raises(ValueError, match=r"sigma.2 is .* its Cauchy-Schwarz bound"):
        check_scale({"3": mean}, directions)


def test_another_batch_is_found(network: nn.Module, data: Any) -> None:
    """One sample alone meets the bound with equality; another sample's factors do not."""
    one = (data[0][:1], data[1][:1])
    directions, sides = measured(network, one, "label")
    squared = directions["6"].sigma[:1] ** 2
    torch.testing.assert_close(squared, (sides["6"].delta * sides["6"].inputs)[:1])
    with pytest.raises(ValueError, match="Cauchy-Schwarz"):
        kronecker_sides(
            network, F.cross_entropy, (data[0][1:2] * 0.01, data[1][1:2]), directions,
            errors="label", settings=DOUBLE,
        )  # fmt: skip


def test_tokens_have_label_errors_alone() -> None:
    torch.manual_seed(2)
    model = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 6), nn.GELU(), nn.Linear(6, 5)).double()
    tokens = torch.randint(0, 5, (6, 3)), torch.randint(0, 5, (6, 3))

    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(logits.flatten(0, 1), labels.flatten())

    directions = gradient_directions(model, loss, tokens, ["1", "3"], 3, settings=DOUBLE)
    sides = kronecker_sides(model, loss, tokens, directions, errors="label", settings=DOUBLE)
    assert sides["1"].positions == 3
    with pytest.raises(ValueError, match=r"class errors need logits \[B, C\]"):
        kronecker_sides(model, loss, tokens, directions, errors="class", settings=DOUBLE)


def test_layers_without_factors_are_left_out(data: Any) -> None:
    torch.manual_seed(3)
    model = nn.Sequential(nn.Conv2d(2, 4, 3, groups=2), nn.Flatten(), nn.Linear(64, 3)).double()
    directions = gradient_directions(model, F.cross_entropy, data, ["0", "2"], 2, settings=DOUBLE)
    sides = kronecker_sides(
        model, F.cross_entropy, data, directions, errors="label", settings=DOUBLE
    )
    assert list(sides) == ["2"]


def test_train_mode_and_other_losses_are_refused(network: nn.Module, data: Any) -> None:
    directions, _ = measured(network, data, "label")
    with pytest.raises(ValueError, match="BatchNorm in train mode"):
        kronecker_sides(network, F.cross_entropy, data, directions, errors="label",
                        settings=Settings(torch.float64, mode="train"))  # fmt: skip
    with pytest.raises(ValueError, match="mean softmax cross-entropy"):
        kronecker_sides(network, lambda out, y: 2 * F.cross_entropy(out, y), data, directions,
                        errors="class", settings=DOUBLE)  # fmt: skip


def test_a_layer_that_the_loss_does_not_see_has_no_side() -> None:
    torch.manual_seed(5)
    model, batch = Half().double(), (torch.randn(2, 4).double(), torch.tensor([0, 2]))
    along = gradient_directions(model, F.cross_entropy, batch, ["used", "unused"], 1)
    sides = kronecker_sides(model, F.cross_entropy, batch, along, errors="label", settings=DOUBLE)
    assert list(sides) == ["used"]
    for spectrum in (sides["used"].input_spectrum, sides["used"].delta_spectrum):
        assert (spectrum >= 0).all()  # of rank 2 at most: the others are zero, or were below it
        assert (spectrum[2:] < 1e-12).all()


def test_too_many_classes_are_refused() -> None:
    model = nn.Sequential(nn.Linear(2, 257)).double()
    batch = torch.randn(3, 2).double(), torch.tensor([0, 100, 256])
    along = gradient_directions(model, F.cross_entropy, batch, ["0"], 1)
    with pytest.raises(ValueError, match=r"C <= 256, not \(3, 257\)"):
        kronecker_sides(model, F.cross_entropy, batch, along, errors="class", settings=DOUBLE)
