"""Our own engine and learner, set up for the benchmarks."""
