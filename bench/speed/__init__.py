"""Benchmarks of speed: what the figures of docs/speed.md are made with."""
