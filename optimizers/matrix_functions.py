"""The public name of `optimizers.math.transfer`: sigma -> f(sigma) for whole matrices."""

from optimizers.math.transfer import *  # noqa: F403
