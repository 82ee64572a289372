"""OME-Zarr for ctseg."""
