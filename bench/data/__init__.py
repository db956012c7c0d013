"""Datasets: loaded, split, prepared once, and fed in batches that a seed decides."""
