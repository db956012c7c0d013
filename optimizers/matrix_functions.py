"""The public functions of :mod:`optimizers.math`, under one name."""
# ruff: noqa: PLC0414  (the form of what is exported again)

from optimizers.math.fits import chebyshev_coefficients as chebyshev_coefficients
from optimizers.math.fits import polynomial_degree as polynomial_degree
from optimizers.math.fits import polynomial_error as polynomial_error
from optimizers.math.fits import polynomial_fit as polynomial_fit
from optimizers.math.fits import rational_poles as rational_poles
from optimizers.math.fits import transfer_peak as transfer_peak
from optimizers.math.gram import evaluate_chebyshev as evaluate_chebyshev
from optimizers.math.gram import evaluate_rational as evaluate_rational
from optimizers.math.gram import schatten8_bound as schatten8_bound
from optimizers.math.gram import spectral_bound as spectral_bound
from optimizers.math.gram import square_bound as square_bound
from optimizers.math.methods import METHODS as METHODS
from optimizers.math.methods import NORMALIZATIONS as NORMALIZATIONS
from optimizers.math.methods import transfer_flops as transfer_flops
from optimizers.math.polar import FORMS as FORMS
from optimizers.math.polar import MUON_COEFFICIENTS as MUON_COEFFICIENTS
from optimizers.math.polar import newton_schulz as newton_schulz
from optimizers.math.polar import polar as polar
from optimizers.math.polar import polar_express_coefficients as polar_express_coefficients
from optimizers.math.transfer import SHAPE_SCALES as SHAPE_SCALES
from optimizers.math.transfer import as_matrix as as_matrix
from optimizers.math.transfer import shape_scale as shape_scale
from optimizers.math.transfer import spectral_transfer as spectral_transfer
from optimizers.math.transfer import transfer_amplitude as transfer_amplitude
from optimizers.math.transfer import transfer_plan as transfer_plan
from optimizers.math.transfer import with_frobenius_norm as with_frobenius_norm
