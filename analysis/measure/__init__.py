"""The measuring core's results: tables of a network's exponents, curvature and landscape."""
