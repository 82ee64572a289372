"""A scan and its geometry, in memory and on disk."""
