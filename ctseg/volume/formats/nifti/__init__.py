"""NIfTI files as volumes."""
