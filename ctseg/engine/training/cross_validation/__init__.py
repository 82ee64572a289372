"""The folds of a data set: a run for each, and what their predictions of unseen cases tell."""
