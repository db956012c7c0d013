"""Functions of the singular values of matrices, without an SVD: start with ``transfer``."""
