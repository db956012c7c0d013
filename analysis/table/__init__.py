"""Runs' numbers in rows and columns over seeds: statistics, comparisons, forms."""
