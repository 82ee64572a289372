"""Statistics of labels and of a scan's values in them, gathered slab by slab."""
