"""Slices of volumes as pictures and as HTML, for notebooks, films and reports."""
