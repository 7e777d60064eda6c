"""Make again what docs/results holds, with ``python -m benchmarks``; see the Makefile."""
