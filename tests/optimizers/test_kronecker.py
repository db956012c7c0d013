"""Factors against direct per-sample sums in float64, and what their normalisation implies."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from layer_rows import recorded
from torch import Tensor, nn

from optimizers.kronecker import KroneckerFactors, supports
from optimizers.reference import kronecker_factors

CONVOLUTIONS: list[dict[str, Any]] = [
    {},
    {"padding": 1},
    {"padding": 1, "stride": 2},
    {"padding": (2, 1), "dilation": 2},
    {"padding": "same"},
    {"padding": "same", "dilation": (1, 2)},
    {"padding": "valid", "stride": (1, 2)},
    {"padding": (1, 0), "padding_mode": "reflect"},
    {"padding": 1, "padding_mode": "circular", "bias": False},
]


class ConvNet(nn.Module):
    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 3, (3, 2), **options)
        self.second = nn.Conv2d(3, 4, 2)
        self.head = nn.Linear(4, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        # In place, as in many networks: errors and inputs must be those of the layer itself.
        hidden = F.relu(self.first(inputs), inplace=True)
        hidden = self.second(hidden).tanh_()
        return self.head(hidden.mean((2, 3)))


class OtherAxes(nn.Module):
    """A convolution over one axis, and one over three."""

    def __init__(self) -> None:
        super().__init__()
        self.volume = nn.Conv3d(2, 3, (2, 1, 3), stride=(1, 2, 1), padding=(1, 0, 1))
        self.line = nn.Conv1d(3, 4, 3, stride=2, padding=2, dilation=2, padding_mode="circular")
        self.head = nn.Linear(4, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = F.relu(self.volume(inputs), inplace=True)
        return self.head(self.line(hidden.flatten(2)).tanh_().mean(2))


class TokenNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(3, 5)
        self.head = nn.Linear(5, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(torch.tanh(self.inner(inputs)).mean(1))


def conv_case(**options: Any) -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(0)
    net = ConvNet(**options).double()
    return net, torch.randn(7, 2, 8, 9).double(), torch.arange(7) % 3


def token_case() -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(0)
    return TokenNet().double(), torch.randn(6, 4, 3).double(), torch.arange(6) % 3


def layers_of(net: nn.Module) -> dict[str, nn.Module]:
    return {name: module for name, module in net.named_modules() if supports(module)}


def by_hand(
    net: nn.Module, inputs: Tensor, labels: Tensor, homogeneous: bool = False
) -> dict[str, tuple[Tensor, Tensor]]:
    """C_A and C_delta, one sample and one position at a time."""
    rows: dict[str, list[tuple[Tensor, Tensor]]] = {}
    with recorded(layers_of(net)) as recording:
        for sample, label in zip(inputs, labels, strict=True):
            F.cross_entropy(net(sample[None]), label[None]).backward()
            for name, of_sample in recording.rows(homogeneous).items():
                rows.setdefault(name, []).append(of_sample)
    net.zero_grad()
    return {
        name: kronecker_factors(*(torch.cat(part) for part in zip(*found, strict=True)))
        for name, found in rows.items()
    }


def gather(net: nn.Module, inputs: Tensor, labels: Tensor, **options: Any) -> KroneckerFactors:
    factors = KroneckerFactors(layers_of(net), **options)
    reduction = options.get("reduction", "mean")
    F.cross_entropy(net(inputs), labels, reduction=reduction).backward()
    return factors


@pytest.mark.parametrize("homogeneous", [False, True])
@pytest.mark.parametrize("options", CONVOLUTIONS, ids=str)
def test_factors_of_convolutions_are_the_per_sample_sums(
    options: dict[str, Any], homogeneous: bool
) -> None:
    case = conv_case(**options)
    expected = by_hand(*case, homogeneous)
    gathered = gather(*case, homogeneous=homogeneous).pop_all()
    assert set(gathered) == {"first", "second", "head"}
    for name, (a, delta) in expected.items():
        torch.testing.assert_close(gathered[name].input, a)
        torch.testing.assert_close(gathered[name].output, delta)
        assert gathered[name].samples == 7


@pytest.mark.parametrize("homogeneous", [False, True])
@pytest.mark.parametrize("chunk", [100, 2**26])
def test_factors_of_convolutions_over_one_and_three_axes(
    monkeypatch: pytest.MonkeyPatch, homogeneous: bool, chunk: int
) -> None:
    torch.manual_seed(0)
    case = OtherAxes().double(), torch.randn(5, 2, 2, 4, 3).double(), torch.arange(5) % 3
    expected = by_hand(*case, homogeneous)
    monkeypatch.setattr("optimizers.kronecker._CHUNK", chunk)
    gathered = gather(*case, homogeneous=homogeneous).pop_all()
    assert set(gathered) == {"volume", "line", "head"}
    for name, (a, delta) in expected.items():
        torch.testing.assert_close(gathered[name].input, a)
        torch.testing.assert_close(gathered[name].output, delta)
    assert (gathered["volume"].positions, gathered["line"].positions) == (18, 9)


@pytest.mark.parametrize("homogeneous", [False, True])
def test_factors_of_linear_layers_with_and_without_tokens(homogeneous: bool) -> None:
    case = token_case()
    gathered = gather(*case, homogeneous=homogeneous).pop_all()
    for name, (a, delta) in by_hand(*case, homogeneous).items():
        torch.testing.assert_close(gathered[name].input, a)
        torch.testing.assert_close(gathered[name].output, delta)
    assert gathered["inner"].positions == 4
    assert gathered["head"].positions == 1
    torch.testing.assert_close(gathered["inner"].input_mean * 4, gathered["inner"].input)


def test_mean_and_sum_of_the_losses_give_the_same_factors() -> None:
    case = conv_case()
    mean = gather(*case).pop_all()
    case[0].zero_grad()
    total = gather(*case, reduction="sum").pop_all()
    for name, factors in mean.items():
        torch.testing.assert_close(factors.output, total[name].output)
        torch.testing.assert_close(factors.input, total[name].input)


def test_microbatches_add_up_to_the_batch() -> None:
    net, inputs, labels = conv_case(padding=1)
    whole = gather(net, inputs, labels).pop_all()
    factors = KroneckerFactors(layers_of(net))
    for part in (slice(0, 3), slice(3, 4), slice(4, 7)):
        F.cross_entropy(net(inputs[part]), labels[part]).backward()
    for name, expected in whole.items():
        found = factors.pop(name)
        assert found is not None
        torch.testing.assert_close(found.input, expected.input)
        torch.testing.assert_close(found.output, expected.output)


@pytest.mark.parametrize("case", [conv_case, token_case])
def test_the_gradient_is_within_the_bound_of_the_factors(case: Callable[..., Any]) -> None:
    """(u^T G v)^2 <= (u^T C_delta u)(v^T C_A v): a loss-mean scale bug would break it."""
    net, inputs, labels = case()
    gathered = gather(net, inputs, labels).pop_all()
    for name, module in layers_of(net).items():
        gradient = module.weight.grad.flatten(1)
        left, sigma, right = torch.linalg.svd(gradient, full_matrices=False)
        over = torch.einsum("mk,mn,nk->k", left, gathered[name].output, left)
        under = torch.einsum("km,mn,kn->k", right, gathered[name].input, right)
        ratio = sigma**2 / (over * under)
        assert (ratio <= 1 + 1e-9).all()
        assert ratio.max() > 1e-3  # and not by being far too large


def test_class_wise_errors_give_the_gauss_newton_factor() -> None:
    """Several backward passes through one forward pass; exact at the head of a linear network."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 3)).double()
    inputs = torch.randn(5, 4).double()
    factors = KroneckerFactors(layers_of(net), reduction="sum")
    logits = net(inputs)
    p = logits.detach().softmax(1)
    for c in range(3):
        error = p[:, c : c + 1].sqrt() * (torch.eye(3).double()[c] - p)
        logits.backward(error, retain_graph=True)
    (found,) = factors.pop_all().values()
    # sum_c s_c s_c^T is the Hessian of cross-entropy in the logits: diag(p) - p p^T.
    expected = (torch.diag_embed(p) - p.unsqueeze(2) * p.unsqueeze(1)).mean(0)
    torch.testing.assert_close(found.output, expected)
    torch.testing.assert_close(found.input, inputs.T @ inputs / 5)
    assert found.samples == 5


def test_half_precision_is_summed_in_float32() -> None:
    net, inputs, labels = token_case()
    expected = gather(net, inputs, labels).pop_all()["inner"]
    with torch.autocast("cpu", torch.bfloat16):
        factors = KroneckerFactors(layers_of(net.float()))
        loss = F.cross_entropy(net(inputs.float()), labels)
    loss.backward()
    found = factors.pop_all()["inner"]
    assert found.input_sum.dtype == found.output_sum.dtype == torch.float32
    torch.testing.assert_close(found.input.double(), expected.input, rtol=0.05, atol=0.01)
    torch.testing.assert_close(found.output.double(), expected.output, rtol=0.1, atol=0.01)
    narrow = gather(net.bfloat16(), inputs.bfloat16(), labels).pop_all()["inner"]
    assert narrow.input_sum.dtype == narrow.output_sum.dtype == torch.float32
    wide = gather(net.float(), inputs.float(), labels, dtype=torch.float64).pop_all()["inner"]
    assert wide.output_sum.dtype == torch.float64


def test_a_layer_called_twice_has_twice_the_positions() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(3, 3).double()
    inputs = torch.randn(5, 3).double()
    factors = KroneckerFactors({"layer": layer})
    hidden = layer(inputs)
    layer(hidden).sum(1).mean().backward()
    found = factors.pop("layer")
    assert found is not None
    expected = inputs.T @ inputs + hidden.detach().T @ hidden.detach()
    torch.testing.assert_close(found.input_sum, expected)
    # Each call counts as samples of its own: both factors are means over ten.
    assert found.samples == found.rows == 10


# -- hooks ----------------------------------------------------------------------------------------


def test_nothing_is_gathered_without_a_backward_pass() -> None:
    net, inputs, labels = token_case()
    factors = KroneckerFactors(layers_of(net))
    net(inputs)
    with torch.no_grad():
        net(inputs)
    assert factors.pop_all() == {}
    factors.active = False
    F.cross_entropy(net(inputs), labels).backward()
    assert factors.pop_all() == {}
    factors.active = True
    F.cross_entropy(net(inputs), labels).backward()
    assert set(factors.pop_all()) == {"inner", "head"}
    assert factors.pop("inner") is None


def test_hooks_go_with_the_context() -> None:
    net, inputs, labels = token_case()
    with KroneckerFactors(layers_of(net)) as factors:
        assert net.inner._forward_hooks
        F.cross_entropy(net(inputs), labels).backward()
        assert set(factors.pop_all()) == {"inner", "head"}
    assert not net.inner._forward_hooks
    F.cross_entropy(net(inputs), labels).backward()
    assert factors.pop_all() == {}


def test_hooks_leave_outputs_and_gradients_alone() -> None:
    net, inputs, labels = conv_case(padding=1)
    F.cross_entropy(net(inputs), labels).backward()
    expected = [param.grad.clone() for param in net.parameters()]
    net.zero_grad()
    gather(net, inputs, labels)
    for param, gradient in zip(net.parameters(), expected, strict=True):
        assert torch.equal(param.grad, gradient)


def test_inputs_may_come_by_name() -> None:
    layer = nn.Linear(2, 2)
    factors = KroneckerFactors({"layer": layer})
    layer(input=torch.ones(3, 2)).sum().backward()
    assert factors.pop("layer") is not None


@pytest.mark.parametrize("how", [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))])
def test_a_copy_of_the_network_has_no_part_in_it(how: Callable[[Any], Any]) -> None:
    net, inputs, labels = token_case()
    factors = KroneckerFactors(layers_of(net))
    other = how(net)
    F.cross_entropy(other(inputs), labels).backward()
    assert factors.pop_all() == {}
    F.cross_entropy(net(inputs), labels).backward()
    assert set(factors.pop_all()) == {"inner", "head"}


def test_a_network_does_not_keep_its_watcher_alive() -> None:
    net, inputs, labels = token_case()
    factors = KroneckerFactors(layers_of(net))
    alive = weakref.ref(factors)
    F.cross_entropy(net(inputs), labels).backward()
    del factors
    gc.collect()
    assert alive() is None
    F.cross_entropy(net(inputs), labels).backward()


def test_a_compiled_network_is_watched_too() -> None:
    net, inputs, labels = token_case()
    expected = gather(net, inputs, labels).pop_all()
    factors = KroneckerFactors(layers_of(net))
    compiled = torch.compile(net, backend="aot_eager")
    for _ in range(2):
        net.zero_grad()
        F.cross_entropy(compiled(inputs), labels).backward()
        found = factors.pop_all()
        for name in ("inner", "head"):
            torch.testing.assert_close(found[name].input, expected[name].input)
            torch.testing.assert_close(found[name].output, expected[name].output)


def test_what_is_supported_and_what_is_refused() -> None:
    assert supports(nn.Linear(2, 2))
    for convolution in (nn.Conv1d, nn.Conv2d, nn.Conv3d):
        assert supports(convolution(2, 2, 1))
    grouped = nn.Conv2d(2, 2, 1, groups=2)
    inside = nn.MultiheadAttention(4, 2).out_proj  # never called as a module
    for module in (grouped, inside, nn.ConvTranspose2d(2, 2, 1), nn.LayerNorm(2)):
        assert not supports(module)
        with pytest.raises(ValueError, match="'odd' is a"):
            KroneckerFactors({"odd": module})
    with pytest.raises(ValueError, match="reduction must be one of mean, sum"):
        KroneckerFactors(reduction="none")
