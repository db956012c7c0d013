"""BatchNorm over the global batch of several processes, for the CPU: torch's is for GPUs."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


class _Gather(torch.autograd.Function):
    """The tensors of all processes, stacked: [processes, ...]."""

    @staticmethod
    def forward(ctx: Any, own: Tensor) -> Tensor:  # noqa: ARG004
        parts = [torch.empty_like(own) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, own.contiguous())
        return torch.stack(parts)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:  # noqa: ARG004
        # Every process used this one's part: its gradient is the sum of theirs.
        total = grads[0].contiguous()
        dist.all_reduce(total)
        return total[dist.get_rank()]


class SyncedBatchNorm(_BatchNorm):
    """BatchNorm whose batch is that of all processes together, all of them of one size.

    Mean and variance of the parts are combined as Chan et al. (1979) do. Compared with
    torch.nn.SyncBatchNorm, which is for GPUs. In eval mode it is plain BatchNorm.
    """

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() < 2:
            raise ValueError(f"expected an input of 2 dimensions or more, not {input.dim()}")

    def forward(self, input: Tensor) -> Tensor:
        """Normalise ``input`` [B, C, ...]."""
        self._check_input_dim(input)
        if not (self.training or self.running_mean is None):
            return super().forward(input)
        wide = input.float() if input.dtype in (torch.bfloat16, torch.float16) else input
        dims = [0, *range(2, input.dim())]
        own = torch.stack([wide.mean(dims), wide.var(dims, correction=0)])
        parts: Tensor = _Gather.apply(own)  # type: ignore[no-untyped-call]
        mean = parts[:, 0].mean(0)
        var = parts[:, 1].mean(0) + (parts[:, 0] - mean).square().mean(0)
        self._update(mean.detach(), var.detach(), input.numel() // input.shape[1] * len(parts))
        shape = (1, -1, *[1] * (input.dim() - 2))
        out = (wide - mean.reshape(shape)) * (var + self.eps).rsqrt().reshape(shape)
        if self.weight is not None:
            out = out * self.weight.reshape(shape) + self.bias.reshape(shape)
        return out.to(input.dtype)

    @torch.no_grad()
    def _update(self, mean: Tensor, var: Tensor, count: int) -> None:
        if self.running_mean is None or self.running_var is None:
            return
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        share = self.momentum
        if share is None:  # a plain average
            share = 1.0 / float(self.num_batches_tracked)
        self.running_mean.lerp_(mean.to(self.running_mean), share)
        unbiased = var * (count / max(count - 1, 1))
        self.running_var.lerp_(unbiased.to(self.running_var), share)


def synchronised_on_cpu(model: nn.Module) -> nn.Module:
    """Return ``model`` with every BatchNorm replaced; parameters and buffers are the same."""
    if isinstance(model, _BatchNorm):
        made = SyncedBatchNorm(
            model.num_features,
            model.eps,
            model.momentum,
            model.affine,
            model.track_running_stats,
        )
        made._parameters, made._buffers = model._parameters, model._buffers
        return made.train(model.training)
    for name, child in model.named_children():
        setattr(model, name, synchronised_on_cpu(child))
    return model
