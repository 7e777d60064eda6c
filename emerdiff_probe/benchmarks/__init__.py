"""What docs/results holds, made anew: ``python -m emerdiff_probe.benchmarks``; see the Makefile."""
