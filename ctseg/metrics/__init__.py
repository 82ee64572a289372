"""Metrics: overlap, surface distances in mm, instances and errors of values, and reports made of them."""
