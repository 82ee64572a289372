"""Overlap, surface distance in mm, instances and errors of values, and the reports made of them."""
