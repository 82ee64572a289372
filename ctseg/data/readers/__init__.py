"""One file for each layout of data sets on disk."""
