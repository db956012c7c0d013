"""Carries out grids of runs: what is missing, on this machine's devices or on SLURM."""
