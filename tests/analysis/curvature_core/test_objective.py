"""How many samples fit: what autograd keeps is counted, and divides the memory.

The mean loss in microbatches: exact, and without a trace on what the caller owns.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from analysis.curvature_core import objective as memory
from analysis.curvature_core.directions import gradient_directions, layer_gradients
from analysis.curvature_core.engines import curvature
from analysis.curvature_core.objective import Objective, Settings, cross_entropy, exact_arithmetic


def test_saved_bytes_of_a_linear_chain() -> None:
    """Each Linear keeps its input, the ReLU its output, which is the next one's input."""
    model = nn.Sequential(nn.Linear(10, 20), nn.ReLU(), nn.Linear(20, 5))
    assert memory.saved_bytes(model, torch.randn(1, 10)) == 4 * (10 + 20)
    assert memory.saved_bytes(model, torch.randn(3, 10)) == 3 * 4 * (10 + 20)


def test_samples_that_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Linear(10, 2)
    monkeypatch.setattr(memory, "_CPU_BUDGET", 4000)
    assert memory.samples_that_fit(model, torch.randn(1, 10), copies=1) == 100
    assert memory.samples_that_fit(model, torch.randn(1, 10), copies=5) == 20
    assert memory.samples_that_fit(nn.Identity(), torch.randn(1, 10), copies=4) == 1000
    monkeypatch.setattr(memory, "_CPU_BUDGET", 3)
    assert memory.samples_that_fit(model, torch.randn(1, 10), copies=1) == 1


@pytest.mark.parametrize(
    ("budget", "size", "passes"), [(4000, 10, 5), (240, 1, 50), (10**6, 50, 1)]
)
def test_automatic_passes_are_of_equal_size(
    monkeypatch: pytest.MonkeyPatch, budget: int, size: int, passes: int
) -> None:
    """40 bytes a sample, 8 times: 12 fit in 4000, so 50 samples take 5 passes of 10."""
    monkeypatch.setattr(memory, "_CPU_BUDGET", budget)
    batch = torch.randn(50, 10), torch.randint(0, 2, (50,))
    how = Settings(microbatch="auto")
    loss = nn.functional.cross_entropy
    objective = Objective(nn.Linear(10, 2), loss, batch, [""], how, copies=8)
    assert (objective.microbatch, objective.microbatches) == (size, passes)


def test_batch_norm_in_train_mode_is_never_split(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_CPU_BUDGET", 100)
    model = nn.Sequential(nn.Linear(10, 2), nn.BatchNorm1d(2))
    batch = torch.randn(50, 10), torch.randint(0, 2, (50,))
    how = Settings(microbatch="auto", mode="train")
    objective = Objective(model, nn.functional.cross_entropy, batch, ["0"], how)
    assert objective.microbatch == 50


CPU = torch.device("cpu")


def network(dropout: float = 0.0, norm: bool = True) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(4, 8),
        nn.BatchNorm1d(8) if norm else nn.Identity(),
        nn.Tanh(),
        nn.Dropout(dropout),
        nn.Linear(8, 3),
    )


def data(n: int = 20) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(n, 4, generator=generator), torch.randint(0, 3, (n,), generator=generator)


def total(objective: Objective) -> float:
    value = 0.0
    for index in range(objective.microbatches):
        with objective.loss(index) as share:
            value += share.item()
    return value


@pytest.mark.parametrize("microbatch", [None, 1, 7, 20, 64])
def test_shares_sum_to_the_mean_loss(microbatch: int | None) -> None:
    model = network().double().eval()
    inputs, labels = data()
    expected = F.cross_entropy(model(inputs.double()), labels).item()
    how = Settings(torch.float64, microbatch)
    objective = Objective(model, F.cross_entropy, (inputs, labels), ["0", "4"], how)
    assert total(objective) == pytest.approx(expected, rel=1e-13)
    assert objective.size == 20
    assert objective.microbatches == {None: 1, 1: 20, 7: 3, 20: 1, 64: 1}[microbatch]


def measure_all(model: nn.Module, how: Settings) -> None:
    directions = gradient_directions(model, F.cross_entropy, data(), ["0", "4"], 3, settings=how)
    curvature(model, F.cross_entropy, data(), ["0", "4"], directions, settings=how)


@pytest.mark.parametrize("mode", ["eval", "train"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_network_is_left_untouched(mode: str, dtype: torch.dtype) -> None:
    model = network(dropout=0.5)
    model[4].weight.requires_grad_(False)
    model[3].eval()
    F.cross_entropy(model(data()[0]), data()[1]).backward()
    before = copy.deepcopy(model)
    gradients = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
    state, pointers = torch.get_rng_state(), [p.data_ptr() for p in model.parameters()]
    measure_all(model, Settings(dtype, mode=mode))
    assert torch.equal(torch.get_rng_state(), state)
    assert [p.data_ptr() for p in model.parameters()] == pointers
    assert [m.training for m in model.modules()] == [m.training for m in before.modules()]
    for name, value in before.state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name
        assert model.state_dict()[name].dtype == value.dtype
    for parameter, old, gradient in zip(
        model.parameters(), before.parameters(), gradients, strict=True
    ):
        assert parameter.requires_grad == old.requires_grad
        assert (parameter.grad is None) == (gradient is None)
        assert gradient is None or torch.equal(parameter.grad, gradient)


def test_eval_is_the_default_whatever_the_network_is_in() -> None:
    model = network(dropout=0.5)
    objective = Objective(model.train(), F.cross_entropy, data(), ["0"])
    expected = F.cross_entropy(copy.deepcopy(model).eval()(data()[0]), data()[1]).item()
    assert total(objective) == pytest.approx(expected, rel=1e-6)


def test_train_mode_uses_the_statistics_of_the_batch() -> None:
    model = network()
    trained = total(Objective(model.eval(), F.cross_entropy, data(), ["0"], Settings(mode="train")))
    expected = F.cross_entropy(copy.deepcopy(model).train()(data()[0]), data()[1]).item()
    assert trained == pytest.approx(expected, rel=1e-6)
    assert trained != pytest.approx(total(Objective(model, F.cross_entropy, data(), ["0"])))


def test_dropout_masks_repeat_but_differ_by_microbatch() -> None:
    model = network(dropout=0.5, norm=False)
    how = Settings(microbatch=10, mode="train")
    first, second = (
        layer_gradients(model, F.cross_entropy, data(), ["4"], how)["4"] for _ in range(2)
    )
    assert torch.equal(first, second)
    inputs, labels = (torch.cat([part[:10], part[:10]]) for part in data())
    objective = Objective(model, F.cross_entropy, (inputs, labels), ["4"], how)
    shares = []
    for index in range(2):
        with objective.loss(index) as share:
            shares.append(share.item())
    assert shares[0] != shares[1]


@pytest.mark.parametrize("microbatch", [20, 21])
def test_batch_norm_may_be_trained_on_the_whole_batch(microbatch: int) -> None:
    how = Settings(microbatch=microbatch, mode="train")
    assert Objective(network(), F.cross_entropy, data(), ["0"], how).microbatches == 1


@pytest.mark.parametrize("shape", [(6,), (6, 3), (2, 3, 4)])
def test_cross_entropy_is_the_mean_over_all_targets(shape: tuple[int, ...]) -> None:
    torch.manual_seed(2)
    logits, targets = torch.randn(*shape, 5).double(), torch.randint(0, 5, shape)
    chosen = logits.softmax(-1).gather(-1, targets.unsqueeze(-1))
    assert cross_entropy(logits, targets).item() == pytest.approx(-chosen.log().mean().item())


UNEVEN: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "classes weighted": lambda out, y: F.cross_entropy(out, y, weight=torch.tensor([1.0, 2, 5])),
    "a class ignored": lambda out, y: F.cross_entropy(out, y, ignore_index=1),
    "a sum": lambda out, y: F.cross_entropy(out, y, reduction="sum"),
    "samples together": lambda out, y: F.cross_entropy(out - out.mean(0), y),
    "a root": lambda out, y: F.mse_loss(out, F.one_hot(y, 3).float()).sqrt(),
}


@pytest.mark.parametrize("loss", UNEVEN.values(), ids=UNEVEN)
def test_losses_that_microbatches_would_change_are_refused(
    loss: Callable[[Tensor, Tensor], Tensor],
) -> None:
    """In one pass any scalar will do; in several, each sample must weigh the same."""
    model = network().eval()
    whole = layer_gradients(model, loss, data(), ["0"])["0"]
    (expected,) = torch.autograd.grad(loss(model(data()[0]), data()[1]), model[0].weight)
    torch.testing.assert_close(whole, expected.double(), atol=1e-6, rtol=1e-4)
    with pytest.raises(ValueError, match=r"every sample weighs the same.*\(microbatch=20\)"):
        layer_gradients(model, loss, data(), ["0"], Settings(microbatch=7))


@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_means_are_taken_in_microbatches_whatever_their_size(offset: float) -> None:
    """Also where the samples' losses all but cancel, or are far from zero."""
    model = network().eval()

    def loss(outputs: Tensor, _: Tensor) -> Tensor:
        return outputs.mean() + offset

    found, whole = (
        layer_gradients(model, loss, data(), ["4"], Settings(microbatch=part))["4"]
        for part in (3, None)
    )
    torch.testing.assert_close(found, whole)


def test_shares_that_cancel_are_no_sign_of_another_loss() -> None:
    torch.manual_seed(3)
    head, (x, y) = nn.Linear(4, 3, bias=False), data()[0].split(10)
    pairs = torch.cat([x, -x, y, -y]), torch.zeros(40, dtype=torch.int64)
    halves, whole = (
        layer_gradients(head, lambda out, _: out.mean(), pairs, [""], Settings(microbatch=part))
        for part in (20, None)
    )
    torch.testing.assert_close(halves[""], whole[""], atol=1e-7, rtol=0)


def test_outputs_with_other_rows_than_samples_are_taken_in_microbatches() -> None:
    torch.manual_seed(4)
    rows = nn.Sequential(nn.Flatten(0, 1), nn.Linear(4, 3))
    batch = torch.randn(10, 3, 4), torch.randint(0, 3, (10, 3))

    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(logits, labels.flatten())

    parts, whole = (
        layer_gradients(rows, loss, batch, ["1"], Settings(torch.float64, part))["1"]
        for part in (5, None)
    )
    torch.testing.assert_close(parts, whole)


def test_a_loss_that_is_no_scalar_is_named_in_microbatches_too() -> None:
    def loss(outputs: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(outputs, labels, reduction="none")

    with pytest.raises(ValueError, match="loss must return a scalar mean"):
        layer_gradients(network(), loss, data(), ["0"], Settings(microbatch=7))


def test_integer_inputs_stay_integers() -> None:
    model = nn.Sequential(nn.Embedding(5, 3), nn.Flatten(), nn.Linear(6, 2))
    tokens = torch.tensor([[0, 1], [4, 2]])
    objective = Objective(
        model, F.cross_entropy, (tokens, torch.tensor([0, 1])), ["2"], Settings(torch.float64)
    )
    assert total(objective) == pytest.approx(
        F.cross_entropy(model(tokens), torch.tensor([0, 1])).item(), rel=1e-6
    )


def test_caller_contexts_do_not_disturb() -> None:
    model = network().eval()
    plain = layer_gradients(model, F.cross_entropy, data(), ["0"])["0"]
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        inside = layer_gradients(model, F.cross_entropy, data(), ["0"])["0"]
    assert torch.equal(plain, inside)


def test_settings_of_torch_come_back_even_after_an_error() -> None:
    old = torch.get_float32_matmul_precision()

    def state() -> tuple[object, ...]:
        return (
            torch.get_float32_matmul_precision(),
            torch.backends.cudnn.allow_tf32,
            torch.backends.cudnn.deterministic,
            torch.backends.cudnn.benchmark,
            torch.is_grad_enabled(),
            torch.backends.cuda.flash_sdp_enabled(),
        )

    try:
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.benchmark = True
        before = state()
        with pytest.raises(ZeroDivisionError), exact_arithmetic(CPU, seed=0):
            assert torch.backends.cuda.matmul.fp32_precision == "ieee"
            assert torch.backends.cudnn.conv.fp32_precision == "ieee"
            assert torch.backends.cudnn.deterministic
            assert not torch.backends.cudnn.benchmark
            assert not torch.backends.cuda.flash_sdp_enabled()
            raise ZeroDivisionError
        assert state() == before
    finally:
        torch.set_float32_matmul_precision(old)
        torch.backends.cudnn.benchmark = False


REFUSED: list[tuple[Callable[[], object], str]] = [
    (lambda: Settings(torch.bfloat16), "dtype must be torch.float32 or torch.float64"),
    (lambda: Settings(microbatch=0), "microbatch must be at least 1, got 0"),
    (lambda: Settings(mode="training"), "mode must be 'eval' or 'train', got 'training'"),
    (
        lambda: Objective(network(), F.cross_entropy, (data()[0], data(3)[1]), ["0"]),
        "got 20 inputs and 3 labels",
    ),
    (lambda: Objective(network(), F.cross_entropy, data(0), ["0"]), "got 0 inputs and 0 labels"),
    (lambda: Objective(network(), F.cross_entropy, data(), ["2"]), "layer '2' has no parameter"),
    (lambda: Objective(network(), F.cross_entropy, data(), ["x"]), "layer 'x' has no parameter"),
    (
        lambda: Objective(
            network(), F.cross_entropy, data(), ["0"], Settings(microbatch=5, mode="train")
        ),
        r"BatchNorm needs the whole batch in one pass \(microbatch >= 20\)",
    ),
    (
        lambda: total(
            Objective(
                network(), lambda a, b: F.cross_entropy(a, b, reduction="none"), data(), ["0"]
            )
        ),
        r"loss must return a scalar mean, got shape \(20,\)",
    ),
]


@pytest.mark.parametrize(("make", "message"), REFUSED)
def test_bad_requests_are_named(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
