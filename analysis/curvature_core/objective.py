"""The mean loss of a batch, in exact microbatches, on a private copy of the network.

What every measurement of curvature shares: nothing here changes the caller's network, its
gradients, its training flags, torch's random state, or torch's settings.

A pass takes as many samples as fit: from what autograd keeps of one sample, and the memory free.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

_CPU_BUDGET = 2**30  # bytes; larger passes are no faster there
_CUDA_SHARE = 0.6  # of what is free


def samples_that_fit(model: nn.Module, inputs: Tensor, copies: float) -> int:
    """Return how many samples like ``inputs`` [1, ...] one pass may take, at least 1.

    Args:
        model: on its device, in the dtype it is to run in.
        inputs: one sample on the same device.
        copies: how many times the measurement holds what a forward pass keeps for backward.
    """
    held = saved_bytes(model, inputs.clone())  # not a slice, which keeps the whole batch
    return max(1, int(_budget(inputs.device) / (copies * max(held, 1))))


def saved_bytes(model: nn.Module, inputs: Tensor) -> int:
    """Return the bytes that autograd keeps of one forward pass, weights not counted."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        outputs = model(inputs)
        del outputs
    return sum(kept.values())


def _budget(device: torch.device) -> float:
    if device.type != "cuda":
        return _CPU_BUDGET
    free, _ = torch.cuda.mem_get_info(device)
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return _CUDA_SHARE * (free + unused)


Loss: TypeAlias = Callable[[Tensor, Tensor], Tensor]
Batch: TypeAlias = tuple[Tensor, Tensor]
Mode: TypeAlias = Literal["eval", "train"]

_DROPOUT_SEED = 0


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the mean cross-entropy over all targets, the classes being the last dimension.

    Logits [B, C] with int64 [B], or [B, T, V] with [B, T]: a sample's share is that of its targets.
    """
    return F.cross_entropy(logits.flatten(0, -2), targets.flatten())


@dataclass(frozen=True)
class Settings:
    """How a measurement computes.

    Attributes:
        dtype: float32 (with TF32 off) or float64; the network's copy is converted to it.
        microbatch: samples a pass; None takes the whole batch at once, "auto" as many as fit in
            memory. The mean loss and its derivatives do not depend on it, but for rounding.
        mode: "eval" (BatchNorm uses running statistics, no dropout) or "train" (BatchNorm uses
            the batch's own; dropout masks are fixed, the same for the gradient and the Hessian).
        device: where to compute; None means where the network is.
        autotune: let cuDNN time its algorithms and take the fastest: quicker on CUDA, but the last
            bits may differ from one measurement to the next.

    Raises:
        ValueError: another dtype or mode, or a microbatch below 1.
    """

    dtype: torch.dtype = torch.float32
    microbatch: int | Literal["auto"] | None = None
    mode: Mode = "eval"
    device: torch.device | str | None = None
    autotune: bool = False

    def __post_init__(self) -> None:
        if self.dtype not in (torch.float32, torch.float64):
            raise ValueError(f"dtype must be torch.float32 or torch.float64, got {self.dtype}")
        if isinstance(self.microbatch, int) and self.microbatch < 1:
            raise ValueError(f"microbatch must be at least 1, got {self.microbatch}")
        if self.mode not in ("eval", "train"):
            raise ValueError(f"mode must be 'eval' or 'train', got {self.mode!r}")


class Objective:
    """The mean loss L of one batch as a function of a network's layer weights.

    Args:
        model: the network; it is copied, never changed.
        loss: (outputs, labels) -> mean over the samples, such as F.cross_entropy, each sample
            weighing the same.
        batch: (inputs, labels), the sample index first, on any device. Floating inputs are
            converted to the dtype of ``settings``; integer inputs (tokens) stay.
        layers: module names; the weight of layer ``name`` is the parameter ``name.weight``.
        copies: how many times the measurement holds what a forward pass keeps for its backward;
            microbatch="auto" divides the memory by it.

    Raises:
        ValueError: an empty batch, inputs and labels of different length, a layer without a
            weight, a compiled network (it has no second derivative), or train mode with BatchNorm
            in microbatches (its statistics would change). In use: a loss that is no such mean,
            in microbatches, or no scalar.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Loss,
        batch: Batch,
        layers: Iterable[str],
        settings: Settings | None = None,
        *,
        copies: float = 3,
    ) -> None:
        self.settings = settings or Settings()
        self._inputs, self._labels = batch
        self.criterion = loss
        self.couples_samples = couples_samples(model, self.settings)
        if any(type(module).__name__ == "OptimizedModule" for module in model.modules()):
            raise ValueError("a compiled network cannot be measured: give the one it was made of")
        self._check_batch()
        self.model = copy.deepcopy(model).to(self.settings.device, self.settings.dtype)
        # In full float32, cuDNN is slow with channels last.
        self.model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        self.model.requires_grad_(True).train(self.settings.mode == "train")
        self.weights: dict[str, nn.Parameter] = {n: weight_of(self.model, n) for n in layers}
        self.microbatch = self._microbatch(copies)

    @property
    def size(self) -> int:
        """How many samples the batch holds."""
        return len(self._inputs)

    @property
    def microbatches(self) -> int:
        """How many passes go through the batch."""
        return -(-self.size // self.microbatch)

    @property
    def device(self) -> torch.device:
        """Where the network lives and the measurement runs."""
        return next(self.model.parameters()).device

    @contextmanager
    def part(self, index: int) -> Iterator[Batch]:
        """Give one microbatch (inputs, labels) on the device, inputs in the measurement's dtype.

        Whatever is computed in the block is computed in `exact_arithmetic`.
        """
        start = index * self.microbatch
        inputs = self._inputs[start : start + self.microbatch].to(self.device)
        labels = self._labels[start : start + self.microbatch].to(self.device)
        if inputs.is_floating_point():
            inputs = inputs.to(self.settings.dtype).contiguous()
        autotune = self.settings.autotune
        with exact_arithmetic(self.device, seed=_DROPOUT_SEED + start, autotune=autotune):
            yield inputs, labels

    @contextmanager
    def loss(self, index: int) -> Iterator[Tensor]:
        """Give one microbatch's share of L, a scalar with its graph: the shares sum to L.

        Whatever is derived from it is computed in `exact_arithmetic`, until the block ends.
        """
        with self.part(index) as (inputs, labels):
            outputs = self.model(inputs)
            if self.microbatches > 1:
                self._check_mean(outputs, labels)
            yield self.share(outputs, labels)

    def share(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Return the share of L of a microbatch with these outputs: its mean, by its size."""
        mean = self.criterion(outputs, labels)
        if mean.ndim != 0:
            raise ValueError(f"loss must return a scalar mean, got shape {tuple(mean.shape)}")
        return mean * (len(labels) / self.size)

    @torch.no_grad()
    def _check_mean(self, outputs: object, labels: Tensor) -> None:
        """Raise ValueError where the shares of two halves do not sum to that of a microbatch."""
        size = len(labels)
        if not isinstance(outputs, Tensor) or len(outputs) != size or size < 2:
            return
        halves = zip(outputs.tensor_split(2), labels.tensor_split(2), strict=True)
        shares = [float(self.share(*half)) for half in halves]
        missed = abs(float(self.share(outputs, labels)) - sum(shares))
        if missed > 1e-4 * max(map(abs, shares)):
            raise ValueError(
                "the loss is no mean in which every sample weighs the same, so it cannot be taken "
                f"in microbatches: measure the batch in one pass (microbatch={self.size})"
            )

    def _check_batch(self) -> None:
        if self.size == 0 or len(self._labels) != self.size:
            raise ValueError(
                "the batch needs as many labels as inputs, and at least one: "
                f"got {self.size} inputs and {len(self._labels)} labels"
            )
        asked = self.settings.microbatch
        if self.couples_samples and isinstance(asked, int) and asked < self.size:
            raise ValueError(
                "mode='train' with BatchNorm needs the whole batch in one pass "
                f"(microbatch >= {self.size}), for its statistics are those of the pass"
            )

    def _microbatch(self, copies: float) -> int:
        """Return how many samples one pass takes."""
        asked = self.settings.microbatch
        if asked != "auto":
            return asked or self.size
        if self.couples_samples:
            return self.size
        self.microbatch = 1
        with self.part(0) as (inputs, _):
            fitting = samples_that_fit(self.model, inputs, copies)
        passes = -(-self.size // fitting)
        return -(-self.size // passes)  # passes of equal size


def couples_samples(model: nn.Module, settings: Settings) -> bool:
    """Whether BatchNorm is to use the statistics of the batch: no sample is then on its own."""
    batch_norms = (nn.modules.batchnorm._BatchNorm,)
    return settings.mode == "train" and any(isinstance(m, batch_norms) for m in model.modules())


def weight_of(model: nn.Module, layer: str) -> nn.Parameter:
    """Return the weight of a layer; ValueError where it has none."""
    try:
        return model.get_parameter(f"{layer}.weight" if layer else "weight")
    except AttributeError as error:
        raise ValueError(f"layer '{layer}' has no parameter '{layer}.weight'") from error


def matrix_shape(model: nn.Module, layer: str) -> tuple[int, int]:
    """Return the shape (m, n) of a layer's weight as a matrix."""
    weight = weight_of(model, layer)
    return len(weight), weight[0].numel()


def graph_nodes(tensors: Iterable[Tensor]) -> Iterator[Any]:
    """Give every function of autograd that these tensors were computed by, once."""
    stack: list[Any] = [tensor.grad_fn for tensor in tensors]
    seen: set[Any] = set()
    while stack:
        node = stack.pop()
        if node is not None and node not in seen:
            seen.add(node)
            yield node
            stack += [following for following, _ in node.next_functions]


def gradients_of(loss: Tensor, weights: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Return the gradients of a scalar loss [], with their graph; zero where it sees no weight.

    Raises:
        ValueError: a function beneath the loss has no second derivative.
    """
    one = torch.ones_like(loss).requires_grad_()
    found = torch.autograd.grad(loss, weights, one, create_graph=True, materialize_grads=True)
    check_twice_differentiable(found)
    return found


def check_twice_differentiable(gradients: Iterable[Tensor]) -> None:
    """Raise ValueError where a function beneath these gradients has no second derivative.

    autograd would take that derivative to be zero: where a backward is marked
    ``once_differentiable``, as those of compiled kernels are, it leaves a node that raises only if
    it is passed, and nothing leads through it. The gradients must start from a tensor that itself
    requires a gradient, or there is no such node.
    """
    if any(type(node).__name__ == "Error" for node in graph_nodes(gradients)):
        raise ValueError(
            "a function of the network has no second derivative (its backward is marked "
            "once_differentiable): put torch's own functions in its place"
        )


@contextmanager
def exact_arithmetic(device: torch.device, seed: int, autotune: bool = False) -> Iterator[None]:
    """Compute in full float32: no TF32, no autocast, attention that has a second derivative.

    torch's random state is seeded inside and put back after; gradients are on, and cuDNN is
    deterministic unless ``autotune`` lets it choose by the clock.
    """
    backends: Any = torch.backends
    products = (
        backends.cuda.matmul,
        backends.cudnn.conv,
        backends.mkldnn.matmul,
        backends.mkldnn.conv,
    )
    switches: list[tuple[Any, str, object]] = [
        (module, "fp32_precision", "ieee") for module in products
    ]
    switches.append((backends.cudnn, "deterministic", not autotune))
    switches.append((backends.cudnn, "benchmark", autotune))
    with ExitStack() as stack:
        for module, name, value in switches:
            stack.callback(setattr, module, name, getattr(module, name))
            setattr(module, name, value)
        cuda = device.type == "cuda"
        stack.enter_context(torch.random.fork_rng([device] if cuda else []))
        torch.default_generator.manual_seed(seed)
        if cuda:
            torch.cuda.default_generators[device.index].manual_seed(seed)
        stack.enter_context(torch.autocast(device.type, enabled=False))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        yield
