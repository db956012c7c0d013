"""Products of the whole Hessian of a batch's mean loss with vectors, by double backward.

Exact for every network and loss that autograd can differentiate twice; BatchNorm in train mode
too, in one pass. torch.func is used nowhere: see the traps in docs/curvature.md.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from analysis.objective import Loss, Objective, Settings, gradients_of

CHUNK = 64  # rows of the dense Hessian a pass over the batch


class HessianProducts:
    """H v for the Hessian H [P, P] of the mean loss in all of a network's parameters.

    Args:
        model: the network; a private copy is measured, frozen parameters too.
        loss: (outputs, labels) -> mean over the samples.
        batch: (inputs, labels), the sample index first.
        settings: dtype, microbatch, mode and device.

    Raises:
        ValueError: as `analysis.objective.Objective`; or the loss or a gradient is not finite,
            or a function of the network has no second derivative.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Loss,
        batch: tuple[Tensor, Tensor],
        settings: Settings | None = None,
    ) -> None:
        self._objective = Objective(model, loss, batch, [], settings)
        self.model = self._objective.model
        self._parameters = list(self.model.parameters())
        self._sizes = [parameter.numel() for parameter in self._parameters]
        self.size = sum(self._sizes)
        self.device, self.dtype = self._objective.device, self._objective.settings.dtype

    def __call__(self, vectors: Tensor, tick: Callable[[], None] | None = None) -> Tensor:
        """Return H v of each row v of ``vectors`` [V, P], in the measurement's dtype, [V, P].

        One graph of gradients a microbatch serves all rows; ``tick`` is called after each product.
        """
        vectors = vectors.to(self.device, self.dtype)
        products = torch.zeros_like(vectors)
        for index in range(self._objective.microbatches):
            with self._objective.loss(index) as loss:
                gradients = self._gradients(loss)
                for row, vector in enumerate(vectors):
                    products[row] += self._product(gradients, vector)
                    if tick is not None:
                        tick()
        return products

    @property
    def microbatches(self) -> int:
        """How many passes a product takes."""
        return self._objective.microbatches

    def _gradients(self, loss: Tensor) -> tuple[Tensor, ...]:
        gradients = gradients_of(loss, self._parameters)
        if not all(bool(gradient.isfinite().all()) for gradient in gradients):
            raise ValueError("the gradient is not finite (a diverged network has no curvature)")
        return gradients

    def _product(self, gradients: tuple[Tensor, ...], vector: Tensor) -> Tensor:
        parts = [
            part.view_as(parameter)
            for part, parameter in zip(
                torch.split(vector, self._sizes), self._parameters, strict=True
            )
        ]
        pairs = [(g, v) for g, v in zip(gradients, parts, strict=True) if g.requires_grad]
        products = torch.autograd.grad(
            [gradient for gradient, _ in pairs],
            self._parameters,
            [part for _, part in pairs],
            retain_graph=True,
            materialize_grads=True,
        )
        return torch.cat([product.flatten() for product in products])


def dense_hessian(
    products: HessianProducts, progress: Callable[[int, int], None] | None = None
) -> Tensor:
    """Return the whole Hessian [P, P] on the CPU, in the measurement's dtype: P products.

    Rows are products with unit vectors, so that H[i, j] and H[j, i] are computed apart, and their
    difference tells the rounding.
    """
    size, done = products.size, 0
    total = size * products.microbatches
    hessian = torch.empty(size, size, dtype=products.dtype)

    def tick() -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, total)

    for start in range(0, size, CHUNK):
        rows = torch.arange(start, min(start + CHUNK, size))
        units = torch.zeros(len(rows), size, dtype=products.dtype)
        units[torch.arange(len(rows)), rows] = 1
        hessian[rows] = products(units, tick).cpu()
    return hessian
