"""Runs, and what was measured of them, read from folders, archives and W&B into frames."""
