"""Measurements of ctseg; each writes its result as JSON into `benchmarks/results/`. Never run by the tests."""
