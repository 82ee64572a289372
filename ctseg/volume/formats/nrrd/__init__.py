"""NRRD files as volumes."""
