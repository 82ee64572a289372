"""Published weights: publishing, resolving by name, verifying, loading."""
