"""The mean loss of a batch, in exact microbatches, on a private copy of the network.

What every measurement of curvature shares: nothing here changes the caller's network, its
gradients, its training flags, torch's random state, or torch's settings.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

Loss: TypeAlias = Callable[[Tensor, Tensor], Tensor]
Batch: TypeAlias = tuple[Tensor, Tensor]
Mode: TypeAlias = Literal["eval", "train"]

_DROPOUT_SEED = 0
_BATCH_NORMS = (nn.modules.batchnorm._BatchNorm,)


@dataclass(frozen=True)
class Settings:
    """How a measurement computes.

    Attributes:
        dtype: float32 (with TF32 off) or float64; the network's copy is converted to it.
        microbatch: samples a pass; None takes the whole batch at once. The mean loss and its
            derivatives do not depend on it, but for rounding.
        mode: "eval" (BatchNorm uses running statistics, no dropout) or "train" (BatchNorm uses
            the batch's own; dropout masks are fixed, the same for the gradient and the Hessian).
        device: where to compute; None means where the network is.

    Raises:
        ValueError: another dtype or mode, or a microbatch below 1.
    """

    dtype: torch.dtype = torch.float32
    microbatch: int | None = None
    mode: Mode = "eval"
    device: torch.device | str | None = None

    def __post_init__(self) -> None:
        if self.dtype not in (torch.float32, torch.float64):
            raise ValueError(f"dtype must be torch.float32 or torch.float64, got {self.dtype}")
        if self.microbatch is not None and self.microbatch < 1:
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

    Raises:
        ValueError: an empty batch, inputs and labels of different length, a layer without a
            weight, or train mode with BatchNorm in microbatches (its statistics would change).
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Loss,
        batch: Batch,
        layers: Iterable[str],
        settings: Settings | None = None,
    ) -> None:
        self.settings = settings or Settings()
        self._inputs, self._labels = batch
        self._loss = loss
        self._check_batch(model)
        self._model = copy.deepcopy(model).to(self.settings.device, self.settings.dtype)
        self._model.requires_grad_(True).train(self.settings.mode == "train")
        self.weights: dict[str, nn.Parameter] = {n: _weight(self._model, n) for n in layers}

    @property
    def size(self) -> int:
        """How many samples the batch holds."""
        return len(self._inputs)

    @property
    def microbatches(self) -> int:
        """How many passes go through the batch."""
        return -(-self.size // self.microbatch)

    @property
    def microbatch(self) -> int:
        """How many samples one pass takes."""
        return self.settings.microbatch or self.size

    @property
    def device(self) -> torch.device:
        """Where the network lives and the measurement runs."""
        return next(self._model.parameters()).device

    @contextmanager
    def loss(self, index: int) -> Iterator[Tensor]:
        """Give one microbatch's share of L, a scalar with its graph: the shares sum to L.

        Whatever is derived from it is computed in `exact_arithmetic`, until the block ends.
        """
        start = index * self.microbatch
        inputs = self._inputs[start : start + self.microbatch].to(self.device)
        labels = self._labels[start : start + self.microbatch].to(self.device)
        if inputs.is_floating_point():
            inputs = inputs.to(self.settings.dtype)
        with exact_arithmetic(self.device, seed=_DROPOUT_SEED + start):
            mean = self._loss(self._model(inputs), labels)
            if mean.ndim != 0:
                raise ValueError(f"loss must return a scalar mean, got shape {tuple(mean.shape)}")
            yield mean * (len(inputs) / self.size)

    def _check_batch(self, model: nn.Module) -> None:
        if self.size == 0 or len(self._labels) != self.size:
            raise ValueError(
                "the batch needs as many labels as inputs, and at least one: "
                f"got {self.size} inputs and {len(self._labels)} labels"
            )
        normalised = any(isinstance(module, _BATCH_NORMS) for module in model.modules())
        if self.settings.mode == "train" and normalised and self.microbatches > 1:
            raise ValueError(
                "mode='train' with BatchNorm needs the whole batch in one pass "
                f"(microbatch >= {self.size}), for its statistics are those of the pass"
            )


def _weight(model: nn.Module, layer: str) -> nn.Parameter:
    try:
        return model.get_parameter(f"{layer}.weight" if layer else "weight")
    except AttributeError as error:
        raise ValueError(f"layer '{layer}' has no parameter '{layer}.weight'") from error


@contextmanager
def exact_arithmetic(device: torch.device, seed: int) -> Iterator[None]:
    """Compute in full float32: no TF32, no autocast, attention that has a second derivative.

    torch's random state is seeded inside and put back after; deterministic cuDNN, gradients on.
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
    switches += [(backends.cudnn, "deterministic", True), (backends.cudnn, "benchmark", False)]
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
