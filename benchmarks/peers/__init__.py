"""stmflow beside what else does durable jobs, in one run. `python -m benchmarks.peers --help`."""
