"""Verdicts over seeds: one family of comparisons a section, and what they rest on."""
