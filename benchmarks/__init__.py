"""What docs/results holds, made anew: ``python -m benchmarks``; see the Makefile."""
