"""Kronecker factors of a layer's curvature: second moments of its inputs and of its output errors.

For a layer with matrix W ``[m, n]`` let a_it be its input and delta_it = dL_i / d(output) its
error, for sample i of N at position t of T: Linear has one position a token (T = 1 without tokens),
a convolution one an output pixel, its inputs being patches in the order of ``weight.flatten(1)``.
L_i is the loss of *sample i alone*, not its share of a mean. Then

    C_A     = 1/N sum_i sum_t a_it a_it^T          [n, n]
    C_delta = 1/N sum_i sum_t delta_it delta_it^T  [m, m]

both means over samples of *sums* over positions. Two consequences:

- for the gradient G = 1/N sum_i dL_i/dW of the same samples and any unit u, v:
  (u^T G v)^2 <= (u^T C_delta u) (v^T C_A v), by Cauchy and Schwarz;
- the curvature (Fisher or Gauss-Newton block) of W in the K-FAC-expand approximation is
  C_delta kron (C_A / T): see :attr:`Factors.input_mean` for C_A / T.

Errors come from an ordinary backward pass. From that of the *mean* loss of a batch they arrive
divided by the batch size, and ``reduction="mean"`` multiplies them by it. With ``reduction="sum"``
they are taken as they come: for a summed loss, or for given output errors such as the class-wise
sqrt(p_c) (e_c - p), whose backward passes through one forward pass all add to C_delta.

Sources: Martens and Grosse 2015 (arXiv 1503.05671); Grosse and Martens 2016 (arXiv 1602.01407)
for convolutions; Eschenhagen et al. 2023 (arXiv 2311.00636) for "expand". Torch alone.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from optimizers import base

REDUCTIONS = ("mean", "sum")
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
# Largest number of patch entries held at a time: 256 MB in float32.
_CHUNK = 2**26


def supports(module: nn.Module) -> bool:
    """Whether ``module`` is a Linear or an ungrouped Conv1d, Conv2d or Conv3d, exactly.

    A subclass may compute something else, or never be called as a module (the output projection
    of torch's MultiheadAttention). A grouped convolution has factors for each two of its groups.
    """
    convolution = type(module) in _CONVOLUTIONS and bool(module.groups == 1)
    return convolution or type(module) is nn.Linear


@dataclass
class Factors:
    """Sums over everything one layer saw; dimensions as in the module's docstring.

    With ``homogeneous`` the inputs end with a constant 1, so that C_A is ``[n + 1, n + 1]`` and the
    matrix is [W, bias].
    """

    input_sum: Tensor
    output_sum: Tensor
    samples: int
    rows: int

    @property
    def input(self) -> Tensor:
        """C_A."""
        return self.input_sum / self.samples

    @property
    def output(self) -> Tensor:
        """C_delta."""
        return self.output_sum / self.samples

    @property
    def positions(self) -> float:
        """T, positions a sample (their mean, where it varies)."""
        return self.rows / self.samples

    @property
    def input_mean(self) -> Tensor:
        """C_A / T, the mean over positions too."""
        return self.input_sum / self.rows


class KroneckerFactors:
    """Accumulates the factors of some layers, through hooks, as batches pass back through them.

    Args:
        modules: the layers by name; of the kinds that :func:`supports` names. The first dimension
            of their inputs is the sample.
        reduction: what the loss is of the samples' losses, "mean" or "sum"; see above.
        homogeneous: append a 1 to the inputs of layers that have a bias.
        dtype: of the sums; None is that of the layer's weight, float32 at least.

    A forward pass adds nothing; its backward adds to both factors. While ``active`` is False
    nothing is seen and nothing is paid. A layer that is called several times in a pass counts each
    call as samples of their own, so the factors are right for layers called once. It is a context
    manager that removes its hooks; they also die with it. A copy or a pickle of a hooked network
    has no part in it.

    Raises:
        ValueError: a module of another kind, or an unknown reduction.
    """

    def __init__(
        self,
        modules: Mapping[str, nn.Module] | None = None,
        *,
        reduction: str = "mean",
        homogeneous: bool = False,
        dtype: torch.dtype | None = None,
    ) -> None:
        self.reduction = base.choice("reduction", reduction, REDUCTIONS)
        self.homogeneous, self.dtype, self.active = homogeneous, dtype, True
        self._sums: dict[str, Factors] = {}
        self._modules: dict[str, nn.Module] = {}
        self._handles: list[Any] = []
        for layer, module in (modules or {}).items():
            self.watch(layer, module)

    def watch(self, layer: str, module: nn.Module) -> None:
        """Hook one more layer."""
        if not supports(module):
            kind = type(module).__name__
            raise ValueError(
                f"{layer!r} is a {kind}: Kronecker factors are those of an nn.Linear or an "
                "nn.Conv1d, 2d or 3d with groups=1, not of a subclass"
            )
        self._modules[layer] = module
        hook = _Hook(weakref.ref(self), layer)
        self._handles.append(module.register_forward_hook(hook, with_kwargs=True))

    def pop(self, layer: str) -> Factors | None:
        """Return what ``layer`` gathered since the last call and forget it; None: nothing."""
        return self._sums.pop(layer, None)

    @torch.no_grad()
    def all_reduce(self) -> None:
        """Add up what all processes have gathered, where torch.distributed is in use.

        Each process must watch the same layers, in the same order; it need not have seen them all.
        """
        if not (dist.is_available() and dist.is_initialized() and self._modules):
            return
        gathered = [self._sums_of(layer, module) for layer, module in self._modules.items()]
        device = gathered[0].input_sum.device
        counts = torch.tensor([[each.samples, each.rows] for each in gathered], device=device)
        sums = [tensor for each in gathered for tensor in (each.input_sum, each.output_sum)]
        pending = [dist.all_reduce(tensor, async_op=True) for tensor in (counts, *sums)]
        for work in pending:
            work.wait()
        for each, (samples, rows) in zip(gathered, counts.tolist(), strict=True):
            each.samples, each.rows = samples, rows

    def pop_all(self) -> dict[str, Factors]:
        """Return what every layer gathered, by name, and forget it."""
        gathered, self._sums = self._sums, {}
        return gathered

    def remove(self) -> None:
        """Take the hooks off the network."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def __enter__(self) -> KroneckerFactors:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()

    @torch.no_grad()
    def add(self, layer: str, module: nn.Module, inputs: Tensor | None, errors: Tensor) -> None:
        """Add a batch's errors ``[N, ...]`` as backward gave them, and its inputs unless None."""
        with torch.autocast(errors.device.type, enabled=False):
            ones = self.homogeneous and module.bias is not None
            rows = _error_rows(module, errors)
            scale = float(len(rows)) if self.reduction == "mean" else 1.0
            sums = self._sums_of(layer, module)
            wide = sums.output_sum.dtype
            # Times the batch size in the wide dtype: a mean's error may be tiny in a narrow one.
            matrix = rows.flatten(0, 1).to(wide) * scale
            sums.output_sum.addmm_(matrix.mT, matrix)
            if inputs is not None:
                _add_inputs(sums.input_sum, module, inputs.to(wide), ones)
                sums.samples += rows.shape[0]
                sums.rows += rows.shape[0] * rows.shape[1]

    def _sums_of(self, layer: str, module: nn.Module) -> Factors:
        if layer not in self._sums:
            weight = module.weight
            assert isinstance(weight, Tensor)
            n = weight[0].numel() + (self.homogeneous and module.bias is not None)
            m = len(weight)
            wide = self.dtype or torch.promote_types(weight.dtype, torch.float32)
            zeros = weight.detach().new_zeros
            self._sums[layer] = Factors(zeros(n, n, dtype=wide), zeros(m, m, dtype=wide), 0, 0)
        return self._sums[layer]


class _Hook:
    """Forward hook; a class, so that copies and pickles of the network get one that does nothing.

    It holds its owner weakly: a network must not keep alive the optimizer that once watched it.
    """

    def __init__(self, owner: weakref.ref[KroneckerFactors] | None, layer: str) -> None:
        self.owner, self.layer = owner, layer

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def __call__(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor
    ) -> None:
        owner = self.owner() if self.owner is not None else None
        if owner is None or not owner.active or not output.requires_grad:
            return
        inputs: list[Tensor | None] = [(args[0] if args else kwargs["input"]).detach()]

        def backward(errors: Tensor) -> None:
            # Several backward passes through one forward pass see its inputs once.
            seen, inputs[0] = inputs[0], None
            owner.add(self.layer, module, seen, errors)

        output.register_hook(backward)  # type: ignore[no-untyped-call]

    def __deepcopy__(self, memo: dict[int, Any]) -> _Hook:
        return _Hook(None, self.layer)

    def __reduce__(self) -> tuple[Any, ...]:
        return _Hook, (None, self.layer)


def _error_rows(module: nn.Module, errors: Tensor) -> Tensor:
    """Errors as ``[samples, positions, m]``."""
    if isinstance(module, _CONVOLUTIONS):
        return errors.flatten(2).mT
    return errors.reshape(len(errors), -1, errors.shape[-1])


def _add_inputs(total: Tensor, module: nn.Module, inputs: Tensor, ones: bool) -> None:
    """Add sum a a^T over samples and positions to ``total``, some samples at a time."""
    if not isinstance(module, _CONVOLUTIONS):
        rows = inputs.reshape(-1, inputs.shape[-1])
        rows = F.pad(rows, (0, 1), value=1.0) if ones else rows
        total.addmm_(rows.mT, rows)
        return
    size = max(1, _CHUNK // (total.shape[0] * inputs[0, 0].numel()))
    for chunk in torch.split(inputs, size):
        patches = _patches(module, chunk)
        patches = F.pad(patches, (0, 0, 0, 1), value=1.0) if ones else patches
        columns = patches.transpose(0, 1).flatten(1)
        total.addmm_(columns, columns.mT)


def _patches(module: Any, inputs: Tensor) -> Tensor:
    """Patches ``[B, in * kernel, T]`` of inputs ``[B, in, ...]``, padded as the layer pads them."""
    axes = range(len(module.kernel_size))
    sides: list[int] = []
    for axis in reversed(axes):  # F.pad takes the last dimension first
        if isinstance(module.padding, str):
            reach = module.dilation[axis] * (module.kernel_size[axis] - 1)
            reach = reach if module.padding == "same" else 0
            sides += [reach // 2, reach - reach // 2]
        else:
            sides += [int(module.padding[axis])] * 2
    mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
    windows = F.pad(inputs, sides, mode=mode)
    for axis in axes:
        reach = module.dilation[axis] * (module.kernel_size[axis] - 1) + 1
        windows = windows.unfold(2 + axis, reach, module.stride[axis])
        windows = windows[..., :: module.dilation[axis]]
    # [B, in, positions ..., kernel ...]
    positions = range(2, 2 + len(axes))
    windows = windows.movedim(tuple(positions), tuple(range(-len(axes), 0)))
    return windows.flatten(2 + len(axes)).flatten(1, -2)
