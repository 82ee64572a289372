"""Several processes that predict together."""
