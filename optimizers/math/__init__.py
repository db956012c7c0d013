"""Functions of a matrix's singular values: fits, polynomials, iterations, batches of them."""
