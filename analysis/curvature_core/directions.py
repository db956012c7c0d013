"""The measured directions: leading singular triplets of each layer's gradient."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from analysis.curvature_core.objective import Batch, Loss, Objective, Settings
from optimizers.math.gram import schatten8_bound

# A singular value this much below the largest is rounding: a softmax head, whose gradient columns
# sum to zero, has one such value, and it would decide gamma if it counted.
RELATIVE_FLOOR = 1e-10
# The Gram matrix holds sigma squared, its rounding being 1e-16 of the largest: down to this ratio
# of singular values it is as good as the SVD to 1e-12 in sigma and to 1e-8 in the subspaces.
GRAM_LIMIT = 1e-4


@dataclass(frozen=True)
class Directions:
    """Leading singular triplets of one layer's gradient matrix G = U diag(sigma) V^T, m x n.

    Direction k is the unit matrix ``left[:, k] right[:, k]^T``.

    Attributes:
        sigma: singular values, descending, [k] float64; exactly 0 beyond the gradient's numerical
            rank (below 1e-10 of the largest), where the direction is arbitrary.
        left: left singular vectors u_k as columns, [m, k] float64.
        right: right singular vectors v_k as columns, [n, k] float64.
        norm: Frobenius norm of the whole gradient; NaN where directions are not of a gradient.
        schatten8: (sum over all its singular values of sigma^8)^(1/8); NaN as ``norm``.
    """

    sigma: Tensor
    left: Tensor
    right: Tensor
    norm: float = math.nan
    schatten8: float = math.nan

    @property
    def shape(self) -> tuple[int, int]:
        """The matrix shape (m, n)."""
        return len(self.left), len(self.right)

    def __len__(self) -> int:
        return len(self.sigma)


def gradient_directions(
    model: nn.Module,
    loss: Loss,
    batch: Batch,
    layers: Iterable[str],
    k: int = 20,
    *,
    settings: Settings | None = None,
) -> dict[str, Directions]:
    """Return the top-k directions of each layer's gradient of the mean loss (Calvo 2026).

    The gradient is computed in float64 whatever ``settings.dtype`` is: it costs one pass, and small
    singular values stay apart from rounding. ``k`` is at most min(m, n) of the layer; the other
    arguments are those of `analysis.curvature_core.objective.Objective`.

    Raises:
        ValueError: k < 1, or what `Objective` refuses.
    """
    # cuDNN's search takes longer than the passes that it would shorten (H200: 3 s to save 0.4).
    exact = replace(settings or Settings(), dtype=torch.float64, autotune=False)
    gradients = layer_gradients(model, loss, batch, layers, exact)
    return {layer: top_directions(gradient, k) for layer, gradient in gradients.items()}


def layer_gradients(
    model: nn.Module,
    loss: Loss,
    batch: Batch,
    layers: Iterable[str],
    settings: Settings | None = None,
) -> dict[str, Tensor]:
    """Return G = dL/dW of each layer as its matrix, [m, n] float64 on the network's device.

    A Linear weight is taken as stored, (out, in); a ConvNd weight as (out, in*kh*kw). Microbatches
    are summed in float64. A layer that the loss does not see has a zero gradient.

    Raises:
        ValueError: a gradient that is not finite, or what `Objective` refuses.
    """
    objective = Objective(model, loss, batch, layers, settings)
    weights = objective.weights
    totals = {n: torch.zeros_like(w, dtype=torch.float64).flatten(1) for n, w in weights.items()}
    for index in range(objective.microbatches):
        with objective.loss(index) as share:
            shares = torch.autograd.grad(share, list(weights.values()), materialize_grads=True)
        for layer, gradient in zip(weights, shares, strict=True):
            totals[layer] += gradient.flatten(1)
    for layer, total in totals.items():
        if not bool(torch.isfinite(total).all()):
            raise ValueError(f"layer '{layer}': the gradient is not finite on this batch")
    return totals


def top_directions(gradient: Tensor, k: int) -> Directions:
    """Return the top singular triplets of a matrix [m, n], at most min(m, n) of them.

    Signs are fixed (the largest entry of each u_k is positive), so that the same gradient gives
    the same directions on every machine, up to rounding. Values below `RELATIVE_FLOOR` of the
    largest become 0.

    Raises:
        ValueError: k < 1.
    """
    if k < 1:
        raise ValueError(f"the number of directions must be at least 1, got {k}")
    left, sigma, right = _leading(gradient.double(), k)
    peak = left.gather(0, left.abs().argmax(dim=0, keepdim=True))
    sign = torch.where(peak < 0, -1.0, 1.0).to(left)
    resolved = sigma > RELATIVE_FLOOR * sigma[0]
    top = torch.where(resolved, sigma, 0.0)
    return Directions(top, left * sign, right * sign, *gradient_norms(gradient))


def gradient_norms(gradient: Tensor) -> tuple[float, float]:
    """Return the Frobenius and the Schatten-8 norm of a matrix [m, n], without an SVD.

    Optimizers divide by them, and the leading singular values alone do not give them.
    """
    matrix = gradient.double()
    peak = matrix.abs().max()
    if not peak > 0:
        return 0.0, 0.0
    norm = peak * torch.linalg.matrix_norm(matrix / peak)
    unit = matrix / norm  # no power of it overflows
    gram = unit @ unit.mT if len(unit) <= unit.shape[1] else unit.mT @ unit
    return float(norm), float(norm * schatten8_bound(gram))


def _leading(matrix: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return u [m, k], sigma [k], v [n, k] of a float64 matrix, by its Gram matrix if that will do.

    An eigendecomposition of the small side is 5 to 50 times faster than the SVD.
    """
    if len(matrix) > matrix.shape[1]:
        right, sigma, left = _leading(matrix.mT, k)
        return left, sigma, right
    scaled = matrix / matrix.abs().max()
    if bool(scaled.isfinite().all()):
        left = torch.linalg.eigh(scaled @ scaled.mT).eigenvectors.flip(1)[:, :k]
        right, small = torch.linalg.qr(matrix.mT @ left)  # the SVD within these subspaces
        turned, sigma, back = (part.to(matrix.device) for part in torch.linalg.svd(small.cpu()))
        if sigma[-1] > GRAM_LIMIT * sigma[0]:
            return left @ back.mT, sigma, right @ turned
    u, sigma, vh = torch.linalg.svd(matrix, full_matrices=False)
    return u[:, :k], sigma[:k], vh[:k].mT
