"""Evaluation: problem sets, completions, scores with their intervals, tables."""
