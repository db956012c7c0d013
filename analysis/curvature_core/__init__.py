"""Exact curvature along directions: loss, engines, Kronecker factors, Hessian blocks."""
