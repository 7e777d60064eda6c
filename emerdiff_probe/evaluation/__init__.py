"""Models and methods over many pictures with known truth: scores, tables, benchmarks."""

from emerdiff_probe.evaluation.scoring import METRICS, Segments, paired, score, summary, verdicts

__all__ = ["METRICS", "Segments", "paired", "score", "summary", "verdicts"]
