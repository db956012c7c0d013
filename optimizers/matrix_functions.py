"""The public functions of :mod:`optimizers.math`, under one name."""

from optimizers.math.fits import (
    chebyshev_coefficients,
    polynomial_degree,
    polynomial_error,
    polynomial_fit,
    rational_poles,
    transfer_peak,
)
from optimizers.math.gram import (
    evaluate_chebyshev,
    evaluate_rational,
    schatten8_bound,
    spectral_bound,
    square_bound,
)
from optimizers.math.methods import METHODS, NORMALIZATIONS, transfer_flops
from optimizers.math.polar import (
    FORMS,
    MUON_COEFFICIENTS,
    newton_schulz,
    polar,
    polar_express_coefficients,
)
from optimizers.math.transfer import (
    SHAPE_SCALES,
    as_matrix,
    shape_scale,
    spectral_transfer,
    transfer_amplitude,
    transfer_plan,
    with_frobenius_norm,
)

__all__ = [
    "FORMS",
    "METHODS",
    "MUON_COEFFICIENTS",
    "NORMALIZATIONS",
    "SHAPE_SCALES",
    "as_matrix",
    "chebyshev_coefficients",
    "evaluate_chebyshev",
    "evaluate_rational",
    "newton_schulz",
    "polar",
    "polar_express_coefficients",
    "polynomial_degree",
    "polynomial_error",
    "polynomial_fit",
    "rational_poles",
    "schatten8_bound",
    "shape_scale",
    "spectral_bound",
    "spectral_transfer",
    "square_bound",
    "transfer_amplitude",
    "transfer_flops",
    "transfer_peak",
    "transfer_plan",
    "with_frobenius_norm",
]
