"""TIFF stacks as volumes."""
