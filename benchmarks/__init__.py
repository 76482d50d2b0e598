"""Benchmarks: one command, ratios within one run. `python -m benchmarks --help`."""
