"""Reports of runs, evaluations and comparisons as single HTML files."""
