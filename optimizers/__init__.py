"""Spectral optimizers on torch alone. Read ``reference`` first: each rule in a few plain lines.

The fast mathematics of the classes is in ``matrix_functions``.
"""

from optimizers.math.transfer import spectral_transfer
from optimizers.muon import Muon
from optimizers.scalar_spectral_adam import ScalarSpectralAdam
from optimizers.spectral_newton import SpectralNewton

__all__ = ["Muon", "ScalarSpectralAdam", "SpectralNewton", "spectral_transfer"]
