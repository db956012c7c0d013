"""The spectra of the weight matrices themselves, beside those of gradient and curvature."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from torch import nn

from analysis import fits
from analysis.measure import tails
from analysis.objective import weight_of


@torch.no_grad()
def weights_table(model: nn.Module, layers: Sequence[str]) -> pd.DataFrame:
    """Fit the spectrum of each layer's weight matrix W [m, n], one row a layer.

    Of the squared singular values lambda_k of W: weight_gamma, the decay of lambda_k with the rank
    k (with _stderr, _r2), and weight_tail, the exponent of their density (Clauset et al. 2009, with
    _stderr, _xmin, _n). For lambda_k = c k^-g the two are related by weight_tail = 1 + 1/g; they
    are different numbers, and the preprint's alpha_weight is said of either. Also weight_pr, their
    participation ratio, and weight_norm, the Frobenius norm. Computed in float64.
    """
    rows = []
    for layer in layers:
        matrix = weight_of(model, layer).double().flatten(1)
        values = torch.linalg.svdvals(matrix).square().cpu().numpy()
        resolved = values[values > 1e-20 * values.max()] if values.size else values
        decay, tail = fits.fit_gamma(resolved), tails.clauset(resolved)
        rows.append(
            {
                "layer": layer,
                "weight_gamma": decay.exponent,
                "weight_gamma_stderr": decay.stderr,
                "weight_gamma_r2": decay.r2,
                "weight_tail": tail.exponent,
                "weight_tail_stderr": tail.stderr,
                "weight_tail_xmin": tail.xmin,
                "weight_tail_n": tail.n_tail,
                "weight_pr": fits.participation_ratio(resolved),
                "weight_norm": float(np.sqrt(values.sum())),
            }
        )
    return pd.DataFrame(rows)
