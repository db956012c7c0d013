"""Spectral optimizers on torch alone: what an update does to singular values is the rule itself.

Read in this order:

1. ``reference``: every rule in a few plain lines, by SVD in float64. All else computes the same.
2. ``muon``, ``spectral_newton``, ``scalar_spectral_adam``: the optimizers, their rules in order.
3. ``matrix_optimizer``: what Muon and Spectral Newton share (momentum, AdamW for the rest,
   compilation), and ``base``: the closure of ``step`` and the checks of hyperparameters.
4. ``partition``: which parameter is a hidden matrix; ``exponents``: a file of measured exponents.
5. ``math``: functions of singular values without an SVD. ``transfer`` first, then ``methods``,
   ``gram`` and ``fits`` for one function of a batch, ``polar``, and ``stacks`` for many shapes.
6. ``controls`` and ``paired``; ``kfac`` on ``kronecker``; ``torch_private`` for torch's internals.

``matrix_functions`` has the public functions of ``math`` under one name.
"""

from optimizers.math.transfer import spectral_transfer
from optimizers.muon import Muon
from optimizers.scalar_spectral_adam import ScalarSpectralAdam
from optimizers.spectral_newton import SpectralNewton

__all__ = ["Muon", "ScalarSpectralAdam", "SpectralNewton", "spectral_transfer"]
