"""HDF5 datasets as volumes."""
