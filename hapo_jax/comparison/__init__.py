"""Runs side by side: paired by seed and by problem, with intervals over both."""
